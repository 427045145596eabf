"""The traps of grpcio that were reproduced on 1.85.1, each with what keeps us out of it (numbers as in the design)."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc
import grpc.aio
import pytest
from gateway.conftest import ServeGateway, Service
from gateway.helpers import Read, fields, generate_request, reason, status_of, stream_request
from gateway.scripted_worker import ScriptedWorker, expected_ids
from google.protobuf.empty_pb2 import Empty
from google.rpc.code_pb2 import Code
from xlmstream.v1 import inference_pb2 as pb
from xlmstream_server import errors
from xlmstream_server.broker import Stop
from xlmstream_server.call import Context
from xlmstream_server.config import Connections, GatewayConfig, Streams
from xlmstream_server.guard import GuardedHandlers
from xlmstream_server.observe.metrics import Metrics

BAD_UTF8 = bytes.fromhex("12080a06") + b"ab\xff\xfecd"  # GenerateStreamRequest{input{text: "ab??cd"}}
INFERENCE = "/xlmstream.v1.InferenceService/"


def raw(channel: grpc.aio.Channel, method: str) -> grpc.aio.UnaryUnaryMultiCallable:
    return channel.unary_unary(method)


@asynccontextmanager
async def guarded(
    serve: Callable[[Empty, Context], Awaitable[Empty]],
) -> AsyncIterator[tuple[grpc.aio.UnaryUnaryMultiCallable, Metrics]]:
    """A server with one guarded method, and a way to call it."""
    metrics = Metrics()
    handlers = GuardedHandlers(metrics, 1024)
    handler = grpc.unary_unary_rpc_method_handler(serve, Empty.FromString, Empty.SerializeToString)
    handlers.add_registered_method_handlers("t.T", {"M": handler})
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handlers,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel.unary_unary("/t.T/M", Empty.SerializeToString, Empty.FromString), metrics
    await server.stop(0)


def ended(metrics: Metrics, code: str) -> float:
    return metrics.registry.get_sample_value("xlmstream_calls_total", {"method": "M", "code": code}) or 0.0


@pytest.mark.parametrize(
    "method",
    [INFERENCE + "GenerateStream", INFERENCE + "Generate", INFERENCE + "Tokenize", "/grpc.health.v1.Health/Check"],
)
async def test_0_a_string_that_is_not_utf8_is_an_invalid_argument(service: Service, method: str) -> None:
    data = b"\x0a\x04ab\xff\xfe" if "Health" in method else BAD_UTF8
    status = await status_of(raw(service.channel, method)(data))
    assert (status.code, reason(status), fields(status)) == (Code.INVALID_ARGUMENT, "INVALID_INPUT", ["request"])
    assert "class" not in status.message
    assert "Error" not in status.message


async def test_0_a_message_that_is_too_large_is_refused_with_its_size(
    serve_gateway: ServeGateway, quick_config: GatewayConfig, worker: ScriptedWorker
) -> None:
    limits = replace(quick_config.limits, max_message_bytes=2048)
    async with serve_gateway(replace(quick_config, limits=limits)) as small:
        status = await status_of(small.inference.Generate(generate_request("x" * 3000)))
        assert (status.code, reason(status)) == (Code.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE")
        info = errors.error_info(status)
        assert info is not None
        assert info.metadata["max"] == "2048"
        assert int(info.metadata["bytes"]) > 3000
        with pytest.raises(grpc.aio.AioRpcError) as absurd:  # refused by gRPC itself, before it is read
            await small.inference.Generate(generate_request("x" * 2048 * 5))
        assert absurd.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_1_a_stream_that_nobody_reads_is_ended_and_its_work_stopped(
    serve_gateway: ServeGateway, quick_config: GatewayConfig, worker: ScriptedWorker
) -> None:
    streams = replace(quick_config.streams, write_stall_s=0.3)
    async with serve_gateway(replace(quick_config, streams=streams)) as service:
        call = service.inference.GenerateStream(stream_request("big:100000 text", 1000))
        await call.initial_metadata()  # and then never reads, nor cancels
        await asyncio.to_thread(worker.wait, lambda: bool(worker.stopped), 20)
        assert set(worker.stopped.values()) <= {Stop.CANCELLED, Stop.ORPHANED}
        assert service.gateway.relay.open_executions == 0
        call.cancel()


async def test_2_a_cancellation_that_the_caller_did_not_cause_is_answered(caplog: pytest.LogCaptureFixture) -> None:
    async def awaits_something_cancelled(request: Empty, context: Context) -> Empty:
        inner = asyncio.get_running_loop().create_future()
        inner.cancel()
        await inner
        return Empty()

    async with guarded(awaits_something_cancelled) as (call, metrics):
        with caplog.at_level(logging.CRITICAL, logger="xlmstream_server.guard"):
            status = await status_of(call(Empty(), timeout=60))
        assert (status.code, reason(status)) == (Code.ABORTED, "INTERNAL")
        assert ended(metrics, "ABORTED") == 1


async def test_2_and_3_a_cancellation_by_the_caller_reaches_the_handler_and_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    entered, left = asyncio.Event(), asyncio.Event()

    async def waits(request: Empty, context: Context) -> Empty:
        try:
            entered.set()
            await asyncio.Event().wait()
        finally:
            left.set()
        return Empty()

    async with guarded(waits) as (call, metrics):
        calling = call(Empty())
        await entered.wait()
        calling.cancel()
        await asyncio.wait_for(left.wait(), 60)
        with pytest.raises(asyncio.CancelledError):
            await calling
    assert (ended(metrics, "CANCELLED"), ended(metrics, "ABORTED")) == (1, 0)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_defect_is_internal_and_tells_nothing_about_itself(caplog: pytest.LogCaptureFixture) -> None:
    async def breaks(request: Empty, context: Context) -> Empty:
        raise RuntimeError("a secret of the implementation")

    async with guarded(breaks) as (call, metrics):
        status = await status_of(call(Empty()))
    assert (status.code, reason(status)) == (Code.INTERNAL, "INTERNAL")
    assert "secret" not in str(status)
    assert "a secret of the implementation" in caplog.text  # for the operator
    assert ended(metrics, "INTERNAL") == 1


async def test_4_nothing_is_left_running_when_a_gateway_has_stopped_under_open_streams(
    serve_gateway: ServeGateway, worker: ScriptedWorker
) -> None:
    before = asyncio.all_tasks()
    async with serve_gateway() as service:
        calls = [service.inference.GenerateStream(stream_request(f"hold:2 {i}", 5)) for i in range(16)]
        reads = [asyncio.create_task(Read().all(call)) for call in calls]
        await asyncio.to_thread(worker.wait, lambda: len(worker.rows) == 16)
        await asyncio.to_thread(worker.wait, lambda: all(row.held for row in worker.rows.values()))
        for read in reads[:8]:
            read.cancel()
        await asyncio.gather(*reads[:8], return_exceptions=True)
        await service.gateway.drain(0.2)
        outcomes = await asyncio.gather(*reads[8:], return_exceptions=True)
        codes = [outcome.code() for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)]
        assert codes == [grpc.StatusCode.UNAVAILABLE] * 8
    assert asyncio.all_tasks() == before


async def test_5_a_channel_that_retries_by_itself_runs_nothing_twice(
    serve_gateway: ServeGateway, worker: ScriptedWorker
) -> None:
    policy = {"maxAttempts": 5, "initialBackoff": "0.01s", "maxBackoff": "0.01s", "backoffMultiplier": 1}
    method = {"name": [{}], "retryPolicy": {**policy, "retryableStatusCodes": ["UNAVAILABLE"]}}
    options = [("grpc.service_config", json.dumps({"methodConfig": [method]}))]
    async with serve_gateway() as service, grpc.aio.insecure_channel(service.gateway.address, options) as channel:
        stream = channel.unary_stream(
            INFERENCE + "GenerateStream",
            pb.GenerateStreamRequest.SerializeToString,
            pb.GenerateStreamResponse.FromString,
        )
        call = stream(stream_request("hold:3 a", 5))
        read = await Read().until(call, 3)
        service.gateway.relay.fail_all(errors.draining())
        status = await status_of(call)
        assert (status.code, reason(status)) == (Code.UNAVAILABLE, "DRAINING")
        assert errors.is_retryable(status)
        assert read.ids == expected_ids("hold:3 a", 3)
        assert len(worker.started) == 1


async def test_6_old_connections_are_asked_to_leave_without_hurting_their_calls(
    serve_gateway: ServeGateway, quick_config: GatewayConfig, worker: ScriptedWorker
) -> None:
    connections = Connections(max_connection_age_s=1, max_connection_age_grace_s=30, drain_s=0.2)
    async with serve_gateway(replace(quick_config, connections=connections, streams=Streams())) as service:
        call = service.inference.GenerateStream(stream_request("hold:2 a", 4))
        read = await Read().until(call, 2)
        while service.channel.get_state() == grpc.ChannelConnectivity.READY:  # until the server says goodbye
            await asyncio.wait_for(service.channel.wait_for_state_change(grpc.ChannelConnectivity.READY), 60)
        worker.release("hold:2 a")
        assert (await read.all(call)).ids == expected_ids("hold:2 a", 4)
        other = service.inference.GenerateStream(stream_request("b", 3))
        assert (await Read().all(other)).ids == expected_ids("b", 3)
