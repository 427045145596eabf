"""The gateway: its parts, put together; its life, from the first call to the last.

call -> guard -> service -> validation, catalogue -> executions -> broker
call <- guard <- streams or unary <- listener <- relay <- broker's frames
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2_grpc import add_ServerReflectionServicer_to_server
from xlmstream.v1 import inference_pb2, jobs_pb2, models_pb2, server_pb2
from xlmstream.v1.inference_pb2_grpc import add_InferenceServiceServicer_to_server
from xlmstream.v1.jobs_pb2_grpc import add_JobServiceServicer_to_server
from xlmstream.v1.models_pb2_grpc import add_ModelServiceServicer_to_server
from xlmstream.v1.server_pb2_grpc import add_ServerServiceServicer_to_server

from xlmstream_server import errors
from xlmstream_server.broker import GatewayBroker, JobLimits, QueueLimits
from xlmstream_server.call import CallMaker
from xlmstream_server.catalogue import Catalogue
from xlmstream_server.config import Connections, GatewayConfig
from xlmstream_server.executions import Executions
from xlmstream_server.guard import GuardedHandlers
from xlmstream_server.infer.session import InferStreams
from xlmstream_server.jobs.census import JobCensus
from xlmstream_server.jobs.creation import Creation
from xlmstream_server.jobs.results import Results
from xlmstream_server.jobs.uploads import Uploads
from xlmstream_server.jobs.waiting import Waiting
from xlmstream_server.observe.metrics import Metrics
from xlmstream_server.relay import Relay
from xlmstream_server.services.health import HealthService
from xlmstream_server.services.inference import InferenceService
from xlmstream_server.services.jobs import JobService
from xlmstream_server.services.models import ModelService
from xlmstream_server.services.server import ServerService
from xlmstream_server.streams import StreamCalls
from xlmstream_server.unary import UnaryCalls

LOG = logging.getLogger(__name__)

SERVICES = frozenset(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (inference_pb2, "InferenceService"),
        (jobs_pb2, "JobService"),
        (models_pb2, "ModelService"),
        (server_pb2, "ServerService"),
    )
)
HEALTH_SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

# Messages a little too large get a typed answer; gRPC itself refuses the absurd ones before they fill the memory.
HARD_MESSAGE_FACTOR = 4
# How long the answers "this gateway is draining" and the last withdrawals may take.
LAST_WORDS_S = 2.0


class Gateway:
    """A running gateway. Make one with `serve`.

    Attributes:
        address: "host:port" it listens on, the port known.
        stopped: to be awaited by the process: set by its signals, and when a defect has ended the background work.
            Leaving `serve` then raises that defect.
    """

    def __init__(self, config: GatewayConfig, broker: GatewayBroker) -> None:
        self.stopped = asyncio.Event()
        self.metrics = Metrics()
        self._scraped = bool(config.observe.metrics)
        self.catalogue = Catalogue(broker)
        self.relay = Relay(broker, config.streams, self.metrics)
        self._calls = CallMaker(config.limits, config.streams.write_stall_s)
        executions = Executions(broker, self.relay, self.metrics)
        unary = UnaryCalls(self.catalogue, executions, self.relay, config.limits)
        streams = StreamCalls(executions, self.relay, self.metrics)
        self.metrics.watch("xlmstream_open_executions", "Executions listened to.", lambda: self.relay.open_executions)
        self.metrics.watch("xlmstream_broker_up", "Whether the broker answers.", lambda: float(broker.up))

        handlers = GuardedHandlers(self.metrics, config.limits.max_message_bytes)
        server = handlers.as_server()
        infer = InferStreams(self.catalogue, executions, self.relay, self._calls, config.limits, self.metrics)
        inference = InferenceService(self.catalogue, executions, unary, streams, infer, self._calls, config.limits)
        add_InferenceServiceServicer_to_server(inference, server)
        add_JobServiceServicer_to_server(self._jobs(broker, config), server)
        add_ModelServiceServicer_to_server(ModelService(self.catalogue, self._calls), server)
        add_ServerServiceServicer_to_server(ServerService(broker, self.catalogue, config.limits), server)
        add_HealthServicer_to_server(HealthService(SERVICES, self.catalogue, self._calls), server)
        if config.dev:
            names = (*SERVICES, HEALTH_SERVICE, reflection.SERVICE_NAME)
            add_ServerReflectionServicer_to_server(reflection.aio.ReflectionServicer(names), server)
        self._server = grpc.aio.server(options=_server_options(config.connections, config.limits.max_message_bytes))
        self._server.add_generic_rpc_handlers((handlers,))
        self.address = _bind(self._server, config.listen)

    def _jobs(self, broker: GatewayBroker, config: GatewayConfig) -> JobService:
        store = broker.jobs
        self.census = JobCensus(store, self.metrics)
        waiting = Waiting(store, self._calls, config.streams.heartbeat_s)
        return JobService(
            store,
            Creation(store, self.catalogue, config.limits, self.metrics),
            Uploads(store, self.catalogue, self._calls, self.metrics),
            Results(store, waiting, self.metrics),
            waiting,
            self._calls,
            self.metrics,
        )

    async def start(self) -> None:
        await self._server.start()
        LOG.info("serving", extra={"address": self.address})

    async def drain(self, within_s: float) -> None:
        """Refuse new work, let open calls end for `within_s` seconds, send the rest to another gateway, stop.

        Streams that are sent away can be taken up with ResumeStream: their work goes on meanwhile.
        """
        self._calls.draining = True
        self.catalogue.changed.fire()
        LOG.info("draining", extra={"duration_ms": round(within_s * 1000)})
        stopped = asyncio.ensure_future(self._server.stop(within_s + LAST_WORDS_S))
        await asyncio.wait((stopped,), timeout=within_s)
        self.relay.fail_all(errors.draining())
        await stopped
        try:
            async with asyncio.timeout(LAST_WORDS_S):
                await self.relay.flush()
        except TimeoutError:
            LOG.warning("stopped before every withdrawal could be sent")

    async def run_background(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.relay.run())
            group.create_task(self.catalogue.run())
            if self._scraped:
                group.create_task(self.census.run())


@contextlib.asynccontextmanager
async def serve(config: GatewayConfig) -> AsyncIterator[Gateway]:
    """A gateway that serves while the context lasts, and drains when it ends.

    Raises BrokerDown or BrokerMisconfigured where it cannot start; OSError where its address is taken.
    """
    async with await _connect(config) as broker:
        gateway = Gateway(config, broker)
        background = asyncio.create_task(gateway.run_background(), name="gateway-background")
        background.add_done_callback(lambda _: gateway.stopped.set())
        try:
            await gateway.catalogue.refresh()
            await gateway.start()
            yield gateway
        finally:
            await gateway.drain(config.connections.drain_s)
            background.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await background


async def _connect(config: GatewayConfig) -> GatewayBroker:
    queue = config.queue
    limits = QueueLimits(  # one tenant so far: its share is the whole
        max_requests=queue.queue_max_requests,
        max_bytes=queue.queue_max_bytes,
        max_tokens=queue.queue_max_tokens,
        tenant_max_requests=queue.queue_max_requests,
        tenant_max_bytes=queue.queue_max_bytes,
        tenant_max_tokens=queue.queue_max_tokens,
    )
    jobs = config.jobs
    job_limits = JobLimits(
        max_bytes=jobs.jobs_max_bytes,
        max_jobs=jobs.jobs_max_count,
        chunk_items=jobs.chunk_max_items,
        chunk_bytes=jobs.chunk_max_bytes,
        chunk_tokens=jobs.chunk_max_tokens,
    )
    return await GatewayBroker.connect(
        config.broker,
        limits=limits,
        shards=queue.shards,
        allow_volatile=config.allow_volatile,
        job_limits=job_limits,
    )


def _bind(server: grpc.aio.Server, address: str) -> str:
    """Listen on `address`; returns it with the port that was taken. Raises OSError."""
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as cause:
        raise OSError(f"cannot listen on {address}: {cause}") from cause
    return f"{address.rpartition(':')[0]}:{port}"


def _server_options(connections: Connections, max_message_bytes: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", max_message_bytes * HARD_MESSAGE_FACTOR),
        ("grpc.max_connection_age_ms", connections.max_connection_age_s * 1000),
        ("grpc.max_connection_age_grace_ms", connections.max_connection_age_grace_s * 1000),
        ("grpc.keepalive_time_ms", connections.keepalive_s * 1000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.so_reuseport", 0),  # two gateways on one port would be a mistake, not a cluster
    ]
