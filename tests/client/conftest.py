"""A fake service for each test, and both clients behind one way of calling them."""

import asyncio
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
from xlmstream import AsyncClient, Client, Event, RetryPolicy
from xlmstream.testing import FakeServer

ANSWERS = {"Hello": " my dear friend , how are you ?", "In": " the beginning", "": ""}
# Waits that no test notices.
FAST = RetryPolicy(initial_backoff_s=0.001, max_backoff_s=0.01)
# A connection that is refused must be tried again at once, too.
RECONNECT_FAST = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 100))


class Blocking:
    """`Client`, one for each call."""

    is_blocking = True

    def call(self, address: Any, verb: str, *args: Any, retry: RetryPolicy = FAST, **keywords: Any) -> Any:
        with Client(address, retry=retry) as client:
            return getattr(client, verb)(*args, **keywords)

    def stream(
        self, address: Any, *args: Any, verb: str = "generate_stream", take: int | None = None, **keywords: Any
    ) -> tuple[list[Event], Any]:
        """The first `take` events, and the stream after its block was left."""
        with Client(address, retry=FAST) as client, getattr(client, verb)(*args, **keywords) as stream:
            return list(islice(stream, take)), stream


class Asyncio:
    """`AsyncClient`, one for each call, in an event loop of its own."""

    is_blocking = False

    def call(self, address: Any, verb: str, *args: Any, retry: RetryPolicy = FAST, **keywords: Any) -> Any:
        async def run() -> Any:
            async with AsyncClient(address, retry=retry) as client:
                return await getattr(client, verb)(*args, **keywords)

        return asyncio.run(run())

    def stream(
        self, address: Any, *args: Any, verb: str = "generate_stream", take: int | None = None, **keywords: Any
    ) -> tuple[list[Event], Any]:
        async def run() -> tuple[list[Event], Any]:
            events: list[Event] = []
            async with AsyncClient(address, retry=FAST) as client, getattr(client, verb)(*args, **keywords) as stream:
                if take != 0:
                    async for event in stream:
                        events.append(event)
                        if len(events) == take:
                            break
            return events, stream

        return asyncio.run(run())


@pytest.fixture(params=[Blocking, Asyncio], ids=["blocking", "asyncio"])
def clients(request: pytest.FixtureRequest) -> Any:
    """Either client."""
    return request.param()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer(ANSWERS) as server:
        yield server


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    with Client(server.address, retry=FAST) as client:
        yield client
