"""Reading a gateway's streams of frames."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator

from xlmstream_server.broker.channel import Channel
from xlmstream_server.broker.connection import Reply
from xlmstream_server.broker.v1.messages_pb2 import Frame
from xlmstream_server.broker.values import Arrival

# Entries that were read are trimmed together: a command for each read would cost the gateway a tenth of a lone call.
TRIM_AFTER = 64


class FrameReader:
    """A place in each of a gateway's streams.

    The ids of a stream are <base>-0, -1, -2, ...: a number left out was trimmed, another base is a stream begun anew.
    """

    def __init__(self, streams: Iterable[bytes]) -> None:
        self._places = dict.fromkeys(streams, (0, 0))
        self._untrimmed = 0

    async def read(self, channel: Channel) -> list[Arrival]:
        """What arrives within a second behind the places, which are moved on.

        What was read before is trimmed once it is many entries, or when nothing has arrived.
        """
        ids = [f"{base}-{number}" for base, number in self._places.values()]
        trims: list[asyncio.Future[Reply]] = []
        if self._untrimmed >= TRIM_AFTER:
            self._untrimmed = 0
            places = zip(self._places, ids, strict=True)
            trims += (channel.call("XTRIM", stream, "MINID", "=", place) for stream, place in places)
        reading = channel.call("XREAD", "COUNT", 128, "BLOCK", 1000, "STREAMS", *self._places, *ids)
        reply = (await asyncio.gather(*trims, reading))[-1] if trims else await reading
        entries = list(_entries(reply))
        if entries:
            self._untrimmed += len(entries)
        elif self._untrimmed:
            self._untrimmed = TRIM_AFTER
        arrivals = (self._arrived(*entry) for entry in entries)
        return [arrival for arrival in arrivals if arrival is not None]

    def _arrived(self, stream: bytes, name: bytes, frame: bytes) -> Arrival | None:
        """None for a stream's first entry, which holds nothing."""
        base, number = (int(part) for part in name.split(b"-"))
        before, self._places[stream] = self._places[stream], (base, number)
        if before == (0, 0) and number == 0:
            return None
        return Arrival(Frame.FromString(frame), gap=(base, number) != (before[0], before[1] + 1))


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
