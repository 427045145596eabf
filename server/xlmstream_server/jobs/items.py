"""Items of jobs on their way in: each is parsed once, to see that it can be an item of its job."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import repeat

import google_crc32c
from google.protobuf.message import DecodeError
from xlmstream.v1.job_pb2 import JobItem
from xlmstream.v1.jobs_pb2 import UploadChunk

from xlmstream_server import errors
from xlmstream_server.broker import job_wire
from xlmstream_server.broker.v1.messages_pb2 import JobItems
from xlmstream_server.jobs.kinds import Estimate

MAX_KEY_BYTES = 256
MAX_ITEM_BYTES = 256 << 10
# Items that are parsed together: a fraction of the cost of each by itself, in blocks of memory that are soon reused.
AT_A_TIME = 256
# Called by `map`, which costs less than a loop over the items.
_HAS_FIELD: Callable[[JobItem, str], bool] = JobItem.HasField  # type: ignore[assignment]  # the stub names the fields
# A string of so many characters may be too long a key in UTF-8.
_LONG_KEY_CHARS = MAX_KEY_BYTES // 4


def check_chunk(chunk: UploadChunk) -> list[bytes]:
    """The items of a chunk. Raises ServiceError: INVALID_INPUT for none, CHECKSUM_MISMATCH."""
    items = list(chunk.items)
    if not items:
        raise errors.invalid_input([("chunk.items", "at least one is needed")])
    if chunk.HasField("crc32c"):
        found = 0
        for begin in range(0, len(items), AT_A_TIME):
            found = google_crc32c.extend(found, b"".join(items[begin : begin + AT_A_TIME]))
        if found != chunk.crc32c:
            raise errors.checksum_mismatch("chunk.items", found, chunk.crc32c)
    return items


def costs_of(
    items: Sequence[bytes], first_index: int, branch: str, estimate: Estimate
) -> tuple[list[int], errors.ServiceError | None]:
    """The estimated tokens of each item up to the first that can be no item of the job, and what is wrong with that.

    `first_index` is the place in the job of the first; errors name items by theirs.
    """
    costs: list[int] = []
    for begin in range(0, len(items), AT_A_TIME):
        parsed, wrong = _checked(items[begin : begin + AT_A_TIME], first_index + begin, branch)
        if parsed:
            costs += estimate(parsed, list(map(len, items[begin : begin + len(parsed)])))
        if wrong:
            return costs, wrong
    return costs, None


def _checked(
    items: Sequence[bytes], first_index: int, branch: str
) -> tuple[Sequence[JobItem], errors.ServiceError | None]:
    """The items up to the first that can be no item of the job, and what is wrong with that."""
    try:
        parsed: Sequence[JobItem] = JobItems.FromString(job_wire.join(items)).items
    except DecodeError:
        parsed = _parsed(items)
    has_input = list(map(_HAS_FIELD, parsed, repeat(branch)))
    sizes = list(map(len, items))
    if not all(has_input) or max(sizes) > MAX_KEY_BYTES:
        for at, item in enumerate(parsed):
            suspect = not has_input[at] or sizes[at] > MAX_KEY_BYTES
            if suspect and (wrong := _fault(item, sizes[at], branch, f"items[{first_index + at}]")):
                return parsed[:at], wrong
    if len(parsed) < len(items):
        path = f"items[{first_index + len(parsed)}]"
        return parsed, errors.invalid_input([(path, "not a valid JobItem: malformed, or a string that is not UTF-8")])
    return parsed, None


def _parsed(items: Sequence[bytes]) -> list[JobItem]:
    """The items up to the first that cannot be parsed."""
    found: list[JobItem] = []
    for data in items:
        try:
            found.append(JobItem.FromString(data))
        except DecodeError:
            break
    return found


def _fault(item: JobItem, size: int, branch: str, path: str) -> errors.ServiceError | None:
    if size > MAX_ITEM_BYTES:
        return errors.invalid_input([(path, f"{size} bytes; at most {MAX_ITEM_BYTES} are taken")])
    if item.WhichOneof("input") != branch:
        given = item.WhichOneof("input") or "no input"
        return errors.invalid_input([(path, f"has {given}; items of this job have {branch}")])
    if len(item.key) > _LONG_KEY_CHARS and (key_bytes := len(item.key.encode())) > MAX_KEY_BYTES:
        return errors.invalid_input([(f"{path}.key", f"{key_bytes} bytes of UTF-8; at most {MAX_KEY_BYTES} are taken")])
    return None
