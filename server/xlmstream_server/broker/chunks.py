"""What a worker's end remembers of each chunk it owns: its results until the broker has them."""

from __future__ import annotations

import time
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from xlmstream.v1.job_pb2 import JobItem, JobResult

from xlmstream_server.broker import job_wire
from xlmstream_server.broker.connection import Argument, Reply
from xlmstream_server.broker.job_values import ChunkItem, ItemResult, TakenChunk
from xlmstream_server.broker.v1.messages_pb2 import JobSpec
from xlmstream_server.broker.values import Stop

# Results of unfinished chunks are saved when the oldest of a chunk is older, and when there are so many of all of them.
SAVE_AFTER_S = 0.5
SAVE_RESULTS = 128


@dataclass(slots=True)
class ChunkRow:
    """A chunk this worker owns: the results of its items, those saved by earlier owners included."""

    shard: int
    alone: bool
    attempt: int
    first_index: int
    # Keys of the items without a result, by index.
    keys: dict[int, str]
    # Serialized results by index.
    results: dict[int, bytes] = field(default_factory=dict)
    failures: dict[str, list[int]] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cancelled: bool = False
    # Results that the broker has not, and when the oldest of them came.
    unsaved: int = 0
    unsaved_since: float | None = None

    def add(self, result: JobResult) -> None:
        """One item's result. A second one of the same item is ignored."""
        key = self.keys.pop(result.index, None)
        if key is None or self.cancelled:
            return
        result.key, result.attempt = key, self.attempt
        self._count(result, result.SerializeToString())
        self.unsaved += 1
        if self.unsaved_since is None:
            self.unsaved_since = time.monotonic()

    def add_saved(self, saved: bytes) -> None:
        """What the broker has of it already."""
        for one in job_wire.split(saved):
            result = JobResult.FromString(one)
            self.keys.pop(result.index, None)
            self._count(result, one)

    def _count(self, result: JobResult, serialized: bytes) -> None:
        self.results[result.index] = serialized
        outcome = result.WhichOneof("outcome")
        if outcome == "error" or outcome is None:
            self.failures.setdefault(_reason(result.error), []).append(result.index - self.first_index)
        else:
            usage = getattr(result, outcome).usage
            self.prompt_tokens += usage.prompt_tokens
            self.completion_tokens += usage.completion_tokens

    def end(self) -> str:
        """How it has ended, as settle.lua calls it; '' while it goes on."""
        if not self.keys:
            return "DONE"
        return "CANCELLED" if self.cancelled else ""

    def due(self, now: float) -> bool:
        """Whether the broker should hear of it."""
        return bool(self.end()) or (self.unsaved_since is not None and now - self.unsaved_since >= SAVE_AFTER_S)

    def report(self) -> list[Argument]:
        """What settle.lua takes of a part, behind its id."""
        failures = ";".join(f"{reason}:{','.join(map(str, offsets))}" for reason, offsets in self.failures.items())
        indices = sorted(self.results)
        return [
            self.end(),
            job_wire.join(self.results[index] for index in indices),
            len(indices) - sum(map(len, self.failures.values())),
            failures,
            self.prompt_tokens,
            self.completion_tokens,
            ",".join(str(index - self.first_index) for index in indices),
        ]


def _reason(error: Status) -> str:
    info = ErrorInfo()
    for detail in error.details:
        if detail.Unpack(info) and info.reason.replace("_", "").isalnum():
            return str(info.reason)
    return "INTERNAL"


class HeldChunks(dict[str, ChunkRow]):
    """The chunks that a worker owns, by their ids."""

    def took(self, shard: int, now_ms: int, given: Sequence[Reply]) -> TakenChunk:
        """One more, as take_chunks.lua gives it."""
        row, taken = _read_chunk(shard, now_ms, given)
        self[taken.chunk_id] = row
        return taken

    def add(self, one: ItemResult) -> None:
        """An item's result; dropped where its chunk is no longer here."""
        row = self.get(one.chunk_id)
        if row is not None:
            row.add(one.result)

    @property
    def unsaved(self) -> int:
        """Results that the broker has not."""
        return sum(row.unsaved for row in self.values())

    def reports(self, shard: int, chunk_ids: Iterable[str], *, save: bool) -> tuple[list[str], list[Argument]]:
        """Those of a shard of which the broker should hear, and what settle.lua takes of them.

        That is of those that have ended or have old news, and with `save` or much news of all that have some.
        """
        now, names, arguments = time.monotonic(), list[str](), list[Argument]()
        save = save or sum(row.unsaved for row in self.values() if not row.end()) >= SAVE_RESULTS
        for name in chunk_ids:
            row = self[name]
            if row.shard == shard and (row.due(now) or (save and row.unsaved)):
                names.append(name)
                arguments += (name, *row.report())
        return names, arguments

    def settled(self, names: Iterable[str], lost: Container[str], stop: dict[str, Stop]) -> None:
        """The broker has heard of these, and knows the `lost` ones no longer as ours. `stop` is told which to drop."""
        for name in names:
            row = self[name]
            row.unsaved, row.unsaved_since = 0, None
            if row.cancelled:
                stop[name] = Stop.CANCELLED
            elif name in lost and row.keys:
                stop[name] = Stop.LOST
            if row.end() or name in lost:
                del self[name]


def _read_chunk(shard: int, now_ms: int, given: Sequence[Reply]) -> tuple[ChunkRow, TakenChunk]:
    """What take_chunks.lua gives of one part."""
    match given:
        case [
            bytes(name),
            bytes(spec),
            bytes(stored),
            int(first_index),
            int(attempt),
            bytes(offsets),
            bytes(saved),
            int(deaths),
            int(alone),
        ]:
            pass
        case _:
            raise AssertionError(f"take_chunks.lua gave a part of {len(given)} values")
    items = job_wire.split(stored)
    wanted = sorted(map(int, offsets.split(b","))) if offsets else range(len(items))
    parsed = {first_index + offset: _item(items[offset]) for offset in wanted}
    row = ChunkRow(shard, alone == 1, attempt, first_index, {index: item.key for index, item in parsed.items()})
    row.add_saved(saved)
    left = tuple(ChunkItem(index, parsed[index]) for index in row.keys)
    return row, TakenChunk(name.decode(), JobSpec.FromString(spec), attempt, left, deaths, alone == 1, now_ms)


def _item(stored: bytes) -> JobItem:
    """One without an input where the bytes are none: it fails as such an item does."""
    try:
        return JobItem.FromString(stored)
    except DecodeError:
        return JobItem()
