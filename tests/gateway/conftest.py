"""A gateway on a free port of this machine, in front of a real broker and a scripted worker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Protocol

import grpc.aio
import pytest
from gateway.scripted_worker import ScriptedWorker
from xlmstream.v1.inference_pb2_grpc import InferenceServiceStub
from xlmstream.v1.jobs_pb2_grpc import JobServiceStub
from xlmstream.v1.models_pb2_grpc import ModelServiceStub
from xlmstream.v1.server_pb2_grpc import ServerServiceStub
from xlmstream_server.config import Connections, GatewayConfig, Streams
from xlmstream_server.gateway import Gateway, serve

if TYPE_CHECKING:  # the .pyi files tell the asynchronous stubs apart, the modules do not
    from xlmstream.v1.inference_pb2_grpc import InferenceServiceAsyncStub
    from xlmstream.v1.jobs_pb2_grpc import JobServiceAsyncStub
    from xlmstream.v1.models_pb2_grpc import ModelServiceAsyncStub
    from xlmstream.v1.server_pb2_grpc import ServerServiceAsyncStub


class Service:
    """A gateway and stubs to call it."""

    def __init__(self, gateway: Gateway, channel: grpc.aio.Channel) -> None:
        self.gateway = gateway
        self.channel = channel
        self.inference: InferenceServiceAsyncStub = InferenceServiceStub(channel)  # type: ignore[assignment]
        self.jobs: JobServiceAsyncStub = JobServiceStub(channel)  # type: ignore[assignment]
        self.models: ModelServiceAsyncStub = ModelServiceStub(channel)  # type: ignore[assignment]
        self.server: ServerServiceAsyncStub = ServerServiceStub(channel)  # type: ignore[assignment]


class ServeGateway(Protocol):
    def __call__(self, config: GatewayConfig | None = None) -> AbstractAsyncContextManager[Service]: ...


@pytest.fixture
def quick_config(broker_url: str) -> GatewayConfig:
    """Settings under which what takes seconds takes tenths."""
    return GatewayConfig(
        listen="127.0.0.1:0",
        broker=broker_url,
        streams=Streams(heartbeat_s=0.5, audit_s=0.5),
        connections=Connections(drain_s=0.2),
    )


@pytest.fixture
def serve_gateway(quick_config: GatewayConfig) -> ServeGateway:
    @asynccontextmanager
    async def serve_one(config: GatewayConfig | None = None) -> AsyncIterator[Service]:
        async with serve(config or quick_config) as gateway, grpc.aio.insecure_channel(gateway.address) as channel:
            yield Service(gateway, channel)

    return serve_one


@pytest.fixture
def worker(broker_url: str) -> Iterator[ScriptedWorker]:
    with ScriptedWorker(broker_url) as running:
        yield running


@pytest.fixture
async def service(worker: ScriptedWorker, serve_gateway: ServeGateway) -> AsyncIterator[Service]:
    async with serve_gateway() as running:
        yield running
