"""A gateway's connection to the broker: kept up, with the gateway's heartbeat and the broker's clock (asyncio)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from xlmstream_server.broker.channel import Channel
from xlmstream_server.broker.connection import PROBE_S, Argument, Reply, check_info, check_shards
from xlmstream_server.broker.errors import BrokerDown, BrokerError
from xlmstream_server.broker.frames import FrameReader
from xlmstream_server.broker.scripts import REGISTRY_ROOT, shard_root
from xlmstream_server.broker.v1.messages_pb2 import Frame
from xlmstream_server.broker.values import Arrival

logger = logging.getLogger(__name__)

BEAT_S = 5.0

Script = Callable[..., Awaitable[list[Reply]]]
"""`script(name, root, *arguments)` calls a script of a shard."""


class GatewayLink:
    """One connection at a time; every call raises `BrokerDown` at once while there is none."""

    def __init__(self, url: str, gateway_id: str, shards: int, most_frames: int) -> None:
        """`most_frames`: unread frames that each shard keeps for this gateway."""
        self._url = url
        self._gateway_id = gateway_id
        self._shards = shards
        self._most_frames = most_frames
        self._channel: Channel | None = None
        self._offset_ms = 0.0
        self._keeper: asyncio.Task[None] | None = None

    async def open(self, *, allow_volatile: bool) -> None:
        """Connect for the first time, checking how the broker is set up. Raises BrokerDown, BrokerMisconfigured."""
        await self._connect()
        info = await self.command("INFO")
        assert isinstance(info, bytes)
        check_info(info, allow_volatile=allow_volatile)
        check_shards(await self.command("SET", REGISTRY_ROOT + b"shards", self._shards, "NX", "GET"), self._shards)

    def keep(self, also: Callable[[Script], Awaitable[None]]) -> None:
        """From now on beat, and connect again whenever the connection is lost. `also` is done after each beat."""
        self._keeper = asyncio.create_task(self._keep(also), name=f"broker-keeper-{self._gateway_id}")

    async def leave_alone(self) -> None:
        """The opposite of `keep`."""
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper

    async def close(self) -> None:
        """Withdraw this gateway's name and disconnect."""
        with contextlib.suppress(BrokerDown):
            for shard in range(self._shards):
                root = shard_root(shard)
                name = self._gateway_id.encode()
                await self.command("DEL", root + b"gw:" + name, root + b"out:" + name)
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    @property
    def up(self) -> bool:
        """Whether there is a connection to the broker."""
        return self._channel is not None and not self._channel.closed.is_set()

    def now_ms(self) -> int:
        """Broker time in milliseconds, from the local monotonic clock and the offset that the heartbeat measures."""
        return int(time.monotonic() * 1000 + self._offset_ms)

    async def run(self, name: str, root: bytes, *arguments: Argument) -> list[Reply]:
        """Call a script of a shard."""
        return await self._connected().script(name, root, *arguments)

    async def command(self, *command: Argument) -> Reply:
        """Call a command."""
        return await self._connected().call(*command)

    async def frames(self) -> AsyncIterator[Arrival]:
        """See GatewayBroker.frames. They come over a connection of their own, which waits for them."""
        reader = FrameReader(shard_root(shard) + b"out:" + self._gateway_id.encode() for shard in range(self._shards))
        away = False
        while True:
            channel: Channel | None = None
            try:
                channel = await Channel.open(self._url)
                await channel.call("PING")  # fails while the broker still loads its data
                if away and self.up:
                    away = False
                    yield Arrival(Frame(), gap=True)
                while not away:
                    for arrival in await reader.read(channel):
                        yield arrival
            except BrokerError as error:
                if not (away or isinstance(error, BrokerDown)):
                    logger.warning("frames cannot be read: %s", error)
                away = True
            finally:
                if channel is not None:
                    channel.close()
            await asyncio.sleep(PROBE_S)

    async def _keep(self, also: Callable[[Script], Awaitable[None]]) -> None:
        """Beats while the broker is there, looks for it while it is not."""
        while True:
            channel = self._channel
            if channel is None or channel.closed.is_set():
                try:
                    await self._connect()
                except BrokerError:
                    await asyncio.sleep(PROBE_S)
                continue
            try:
                async with asyncio.timeout(BEAT_S):
                    await channel.closed.wait()
            except TimeoutError:
                with contextlib.suppress(BrokerError):
                    await self._beat(channel)
                    await also(channel.script)

    async def _connect(self) -> None:
        channel = await Channel.open(self._url)
        try:
            await self._beat(channel)  # loads its script where need be
            await self._beat(channel)  # measures the clocks' offset
        except BaseException:
            channel.close()
            raise
        self._channel = channel

    async def _beat(self, channel: Channel) -> None:
        for shard in range(self._shards):
            before = time.monotonic()
            reply = await channel.script("beat", shard_root(shard), self._gateway_id, self._most_frames)
            match reply:
                case [b"OK", int(now_ms)]:
                    self._offset_ms = now_ms - (before + time.monotonic()) * 500

    def _connected(self) -> Channel:
        if self._channel is None or self._channel.closed.is_set():
            raise BrokerDown("the broker cannot be reached")
        return self._channel
