"""The journal's form: every event behind its length as a varint, which is protobuf's delimited form."""

from __future__ import annotations

from xlmstream_server.broker.v1.messages_pb2 import Event


def encode(event: Event) -> bytes:
    """One event behind its length."""
    body = event.SerializeToString()
    length = len(body)
    head = bytearray()
    while length > 127:
        head.append(length & 127 | 128)
        length >>= 7
    head.append(length)
    return bytes(head) + body


def split(journal: bytes) -> list[bytes]:
    """Each event of a journal, still behind its length."""
    found: list[bytes] = []
    start = 0
    while start < len(journal):
        at, length, shift = start, 0, 0
        while True:
            byte = journal[at]
            length |= (byte & 127) << shift
            at, shift = at + 1, shift + 7
            if byte < 128:
                break
        found.append(journal[start : at + length])
        start = at + length
    return found


def decode(journal: bytes, from_event: int = 0) -> tuple[Event, ...]:
    """The events of a journal from number `from_event` on."""
    return tuple(_decode_one(event) for event in split(journal)[from_event:])


def _decode_one(delimited: bytes) -> Event:
    at = 0
    while delimited[at] > 127:
        at += 1
    return Event.FromString(delimited[at + 1 :])
