"""Items and results of a chunk as bytes: each serialized message as field 1 of a message that has only that field.

So the bytes of a chunk's results are the field `results` of the public answers, and nothing is parsed on the way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from xlmstream_server.broker.v1.messages_pb2 import SerializedMessages

_ERROR_TAG = 0x52  # JobResult.error
# Most bytes of tag and length in front of a message.
_HEAD_BYTES = 6


def join(messages: Iterable[bytes]) -> bytes:
    """Serialized messages as the field."""
    return SerializedMessages(messages=messages).SerializeToString()


def split(field: bytes) -> list[bytes]:
    """The serialized messages in the field."""
    return list(SerializedMessages.FromString(field).messages)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A varint and the place behind it."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def index_of(result: bytes) -> int:
    """JobResult.index of a serialized JobResult, whose fields are in their order."""
    return _varint(result, 1)[0] if result and result[0] == 0x08 else 0


def is_error(result: bytes) -> bool:
    """Whether a serialized JobResult has an error."""
    at = 0
    while at < len(result):
        tag = result[at]
        value, behind = _varint(result, at + 1)
        if tag == 0x12:  # key
            at = behind + value
        elif tag in (0x08, 0x18):  # index, attempt
            at = behind
        else:
            return tag == _ERROR_TAG
    return False


def cut(
    items: Sequence[bytes], costs: Sequence[int], *, most_items: int, most_bytes: int, most_tokens: int
) -> list[tuple[int, int, bytes]]:
    """Cut items into chunks within bounds: number of items, tokens and field of each. At least one item in each."""
    sizes = [size + _HEAD_BYTES for size in map(len, items)]
    chunks: list[tuple[int, int, bytes]] = []
    begin = 0
    while begin < len(items):
        end = min(begin + most_items, len(items))
        if sum(sizes[begin:end]) > most_bytes or sum(costs[begin:end]) > most_tokens:
            end = _end(sizes, costs, begin, end, most_bytes, most_tokens)
        chunks.append((end - begin, sum(costs[begin:end]), join(items[begin:end])))
        begin = end
    return chunks


def _end(sizes: Sequence[int], costs: Sequence[int], begin: int, end: int, most_bytes: int, most_tokens: int) -> int:
    """Behind the last item of a chunk that begins at `begin` and ends before `end`."""
    size, tokens = sizes[begin], costs[begin]
    for at in range(begin + 1, end):
        size, tokens = size + sizes[at], tokens + costs[at]
        if size > most_bytes or tokens > most_tokens:
            return at
    return end
