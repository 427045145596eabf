"""Reading the results of a job: cursors, and what of a chunk's parts counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

from xlmstream.v1.job_pb2 import (
    JOB_RESULT_FILTER_FAILED,
    JOB_RESULT_FILTER_SUCCEEDED,
    JOB_RESULT_ORDER_COMPLETION,
    JobResultFilter,
    JobResultOrder,
)

from xlmstream_server.broker import job_wire
from xlmstream_server.broker.errors import CursorInvalid


@dataclass(slots=True)
class Place:
    """Where a reader stands: the chunk (by input) or the part (by completion), and how many of its results it has."""

    by_completion: bool
    at: int = 0
    skip: int = 0

    @classmethod
    def read(cls, cursor: str, order: JobResultOrder.ValueType) -> Place:
        """Raises CursorInvalid."""
        by_completion = order == JOB_RESULT_ORDER_COMPLETION
        if not cursor:
            return cls(by_completion)
        letter, _, numbers = cursor.partition(".")
        at, _, skip = numbers.partition(".")
        digits = at.isascii() and at.isdigit() and skip.isascii() and skip.isdigit() and len(numbers) < 24
        if letter != "ic"[by_completion] or not digits:
            raise CursorInvalid(cursor)
        return cls(by_completion, int(at), int(skip))

    def __str__(self) -> str:
        return f"{'ic'[self.by_completion]}.{self.at}.{self.skip}"

    @property
    def order(self) -> str:
        """As results.lua calls it."""
        return "parts" if self.by_completion else "chunks"


def results_of(parts: Sequence[bytes], *, by_completion: bool) -> list[bytes | None]:
    """The results that count, each serialized; None stands for one that a later attempt has replaced.

    parts: by completion, a part and what later attempts have of its chunk; by input, all parts of a chunk, later
    attempts behind earlier ones.
    """
    if len(parts) == 1:
        return list(job_wire.split(parts[0]))
    if by_completion:
        replaced = {job_wire.index_of(result) for part in parts[1:] for result in job_wire.split(part)}
        return [None if job_wire.index_of(result) in replaced else result for result in job_wire.split(parts[0])]
    latest: dict[int, bytes] = {}
    for part in parts:
        latest.update((job_wire.index_of(result), result) for result in job_wire.split(part))
    return [latest[index] for index in sorted(latest)]


def passes(result: bytes, result_filter: JobResultFilter.ValueType) -> bool:
    if result_filter == JOB_RESULT_FILTER_SUCCEEDED:
        return not job_wire.is_error(result)
    if result_filter == JOB_RESULT_FILTER_FAILED:
        return job_wire.is_error(result)
    return True


class PageMaker:
    """Fills a page, within its bounds, with what the broker gives place by place."""

    def __init__(
        self, place: Place, max_results: int, max_bytes: int, result_filter: JobResultFilter.ValueType
    ) -> None:
        self.place = place
        self.results: list[bytes] = []
        self.size_bytes = 0
        self._max_results = max_results
        self._max_bytes = max_bytes
        self._filter = result_filter

    def add(self, results: Sequence[bytes | None]) -> bool:
        """Take what there is at `place`, and move on behind that; false where the page is full before the end of it."""
        for result in islice(results, self.place.skip, None):
            if result is not None and passes(result, self._filter):
                size = self.size_bytes + len(result) + 6
                if self.results and (len(self.results) == self._max_results or size > self._max_bytes):
                    return False
                self.results.append(result)
                self.size_bytes = size
            self.place.skip += 1
        self.place.at, self.place.skip = self.place.at + 1, 0
        return True

    def following(self) -> PageMaker:
        """The next page."""
        return PageMaker(replace(self.place), self._max_results, self._max_bytes, self._filter)
