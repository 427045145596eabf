"""What both ends make of a broker's refusals: those that pass are BrokerDown, and nobody stops looking for it."""

from __future__ import annotations

import asyncio
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from broker.play import envelope
from xlmstream_server.broker import BrokerDown, BrokerError, GatewayBroker
from xlmstream_server.broker.channel import Channel
from xlmstream_server.broker.frames import FrameReader
from xlmstream_server.broker.link import Link
from xlmstream_server.broker.values import Arrival


@contextmanager
def refusing(reply: bytes, *, at_once: bool = False) -> Iterator[str]:
    """A broker that answers everything with an error; `at_once`: as soon as somebody connects, and hangs up."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            if at_once:
                self.request.sendall(reply)
                return
            while self.request.recv(1 << 16):
                self.request.sendall(reply)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"redis://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


PASSING = [
    b"-LOADING Redis is loading the dataset in memory\r\n",
    b"-READONLY You can't write against a read only replica.\r\n",
    b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n",
    b"-CLUSTERDOWN The cluster is down\r\n",
    b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n",
    b"-MOVED 3999 127.0.0.1:6381\r\n",
    b"-MISCONF Errors writing to the AOF file\r\n",
    b"-NOREPLICAS Not enough good replicas to write.\r\n",
    b"-ERR max number of clients reached\r\n",
]


@pytest.mark.parametrize("reply", PASSING, ids=lambda reply: reply.split()[0].decode())
def test_a_refusal_that_passes_is_an_absence_to_workers(reply: bytes) -> None:
    with refusing(reply) as url:
        link = Link(url)
        try:
            with pytest.raises(BrokerDown):
                link.command("PING")
        finally:
            link.close()


@pytest.mark.parametrize("reply", PASSING, ids=lambda reply: reply.split()[0].decode())
async def test_a_refusal_that_passes_is_an_absence_to_gateways(reply: bytes) -> None:
    with refusing(reply) as url:
        channel = await Channel.open(url)
        with pytest.raises(BrokerDown):
            await channel.call("PING")
        channel.close()


async def test_a_refusal_before_the_first_command_ends_the_connection() -> None:
    defects: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: defects.append(context))
    with refusing(b"-ERR max number of clients reached\r\n", at_once=True) as url:
        channel = await Channel.open(url)
        async with asyncio.timeout(30):
            await channel.closed.wait()
        with pytest.raises(BrokerDown):
            channel.call("PING")
    assert defects == []


async def test_frames_go_on_after_any_error_of_the_broker(
    gateway: GatewayBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read = FrameReader.read

    async def fails_once(reader: FrameReader, channel: Channel) -> list[Arrival]:
        monkeypatch.setattr(FrameReader, "read", read)
        raise BrokerError("ERR something passing")

    monkeypatch.setattr(FrameReader, "read", fails_once)
    frames = gateway.frames()
    async with asyncio.timeout(30):
        assert (await anext(frames)).gap
        asked = envelope(gateway)
        await gateway.submit(asked)
        await gateway.cancel(asked.execution_id)
        assert [item.execution_id for item in (await anext(frames)).frame.items] == [asked.execution_id]
    assert "something passing" in caplog.text
