from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import redis
from broker.play import FlakyLink, Listener, worker_on
from xlmstream_server.broker import GatewayBroker, WorkerBroker


@pytest.fixture
def client(broker_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(broker_url) as client:
        yield client


@pytest.fixture
async def gateway(broker_url: str) -> AsyncIterator[GatewayBroker]:
    async with await GatewayBroker.connect(broker_url) as gateway:
        yield gateway


@pytest.fixture
async def other_gateway(broker_url: str) -> AsyncIterator[GatewayBroker]:
    async with await GatewayBroker.connect(broker_url) as gateway:
        yield gateway


@pytest.fixture
def listener(client: redis.Redis, gateway: GatewayBroker) -> Listener:
    return Listener(client, gateway)


@pytest.fixture
def worker(broker_url: str) -> Iterator[WorkerBroker]:
    with worker_on(FlakyLink(broker_url)) as worker:
        yield worker


@pytest.fixture
def other_worker(broker_url: str) -> Iterator[WorkerBroker]:
    with worker_on(FlakyLink(broker_url), "other") as worker:
        yield worker
