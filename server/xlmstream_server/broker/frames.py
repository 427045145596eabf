"""Reading a gateway's streams of frames."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from xlmstream_server.broker.channel import Channel
from xlmstream_server.broker.connection import Reply
from xlmstream_server.broker.v1.messages_pb2 import Frame
from xlmstream_server.broker.values import Arrival


async def read_frames(channel: Channel, places: dict[bytes, tuple[int, int]]) -> list[Arrival]:
    """What arrives within a second in the streams behind their places, which are moved on; trims what was read before.

    The ids of a stream are <base>-0, -1, -2, ...: a number left out was trimmed, another base is a stream begun anew.
    """
    ids = [f"{base}-{number}" for base, number in places.values()]
    trims = [channel.call("XTRIM", stream, "MINID", "=", place) for stream, place in zip(places, ids, strict=True)]
    reading = channel.call("XREAD", "COUNT", 128, "BLOCK", 1000, "STREAMS", *places, *ids)
    *_, reply = await asyncio.gather(*trims, reading)
    arrivals: list[Arrival] = []
    for stream, name, frame in _entries(reply):
        base, number = (int(part) for part in name.split(b"-"))
        before, places[stream] = places[stream], (base, number)
        if before == (0, 0) and number == 0:
            continue  # the stream's first entry, which holds nothing
        arrivals.append(Arrival(Frame.FromString(frame), gap=(base, number) != (before[0], before[1] + 1)))
    return arrivals


def _entries(reply: Reply) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Stream, id and frame of each entry that XREAD returned."""
    if reply is None:
        return
    assert isinstance(reply, list)
    for one in reply:
        match one:
            case [bytes(stream), list(entries)]:
                for entry in entries:
                    match entry:
                        case [bytes(name), [bytes(), bytes(frame)]]:
                            yield stream, name, frame
