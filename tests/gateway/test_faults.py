"""Gateways and brokers that go away, frames that get lost: nobody misses a token, nobody sees one twice."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import grpc.aio
import pytest
import redis
from gateway.conftest import ServeGateway
from gateway.helpers import Read, generate_request, reason, status_of, stream_request
from gateway.scripted_worker import ScriptedWorker, expected_ids
from google.rpc.code_pb2 import Code
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from xlmstream.v1 import inference_pb2 as pb
from xlmstream.v1.common_pb2 import DISCONNECT_POLICY_DETACH
from xlmstream.v1.inference_pb2_grpc import InferenceServiceStub
from xlmstream_server import errors
from xlmstream_server.broker.connection import TIMEOUT_S
from xlmstream_server.broker.embedded import EmbeddedBroker
from xlmstream_server.config import GatewayConfig


@contextlib.asynccontextmanager
async def gateway_process(broker_url: str, *arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A real gateway process and its address."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "xlmstream_server", "--listen", "127.0.0.1:0", "--broker", broker_url, *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        line = (await asyncio.wait_for(process.stdout.readline(), 30)).decode()
        assert "ready on" in line, (await process.communicate())[1].decode()
        yield process, line.split()[-1]
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def run_unread(broker_url: str, worker: ScriptedWorker, *prompts: str, keep: int = 0) -> None:
    """Let the rows of `prompts` run to their end, one after the other, while this thread's loop, and so the gateway's
    reader, stands still; then trim the frames, all but the first (which the reader was waiting for) and `keep`.
    """
    with redis.Redis.from_url(broker_url) as client:
        [stream] = client.keys("xs:*out:*")
        for prompt in prompts:
            worker.release(prompt)
            worker.wait(lambda prompt=prompt: all(row.prompt != prompt for row in worker.rows.values()))
        client.xtrim(stream, maxlen=keep, approximate=False)


async def test_a_gateway_killed_under_16_streams_loses_none_of_them(
    broker_url: str, serve_gateway: ServeGateway, worker: ScriptedWorker
) -> None:
    prompts = [f"hold:{3 + i} stream {i}" for i in range(16)]
    async with (
        serve_gateway() as other,
        gateway_process(broker_url) as (process, address),
        grpc.aio.insecure_channel(address) as channel,
    ):
        inference = InferenceServiceStub(channel)
        calls = [
            inference.GenerateStream(stream_request(each, 40, disconnect_policy=DISCONNECT_POLICY_DETACH))
            for each in prompts
        ]
        reads = await asyncio.gather(*(Read().until(call, 3 + i) for i, call in enumerate(calls)))
        process.kill()
        endings = await asyncio.gather(
            *(read.all(call) for read, call in zip(reads, calls, strict=True)), return_exceptions=True
        )
        for ending in endings:
            assert isinstance(ending, grpc.aio.AioRpcError)
            assert ending.code() == grpc.StatusCode.UNAVAILABLE
        killed_at = time.monotonic()
        resumed = [
            other.inference.ResumeStream(pb.ResumeStreamRequest(resume_token=r.resume_token, next_event=r.next_event))
            for r in reads
        ]
        for prompt in prompts:
            worker.release(prompt)
        await asyncio.gather(*(read.all(call) for read, call in zip(reads, resumed, strict=True)))
        assert time.monotonic() - killed_at < 60  # and not at their deadline, two minutes later
    for prompt, read in zip(prompts, reads, strict=True):
        assert read.ids == expected_ids(prompt, 40)
        assert read.finished
    assert len(worker.started) == 16


async def test_sigterm_drains_streams_finish_or_go_elsewhere(
    broker_url: str, serve_gateway: ServeGateway, worker: ScriptedWorker
) -> None:
    async with (
        serve_gateway() as other,
        gateway_process(broker_url, "--drain-s", "1.5") as (process, address),
        grpc.aio.insecure_channel(address) as channel,
    ):
        inference, health = InferenceServiceStub(channel), HealthStub(channel)
        watch = health.Watch(HealthCheckRequest(service="xlmstream.v1.InferenceService"))
        assert (await watch.read()).status == HealthCheckResponse.SERVING
        short = inference.GenerateStream(stream_request("hold:2 short", 4))
        long = inference.GenerateStream(stream_request("hold:2 long", 4))
        read_short, read_long = await Read().until(short, 2), await Read().until(long, 2)
        process.send_signal(signal.SIGTERM)
        assert (await watch.read()).status == HealthCheckResponse.NOT_SERVING
        worker.release("hold:2 short")
        assert (await read_short.all(short)).finished
        status = await status_of(long)
        assert (status.code, reason(status)) == (Code.UNAVAILABLE, "DRAINING")
        assert errors.is_retryable(status)
        resume = pb.ResumeStreamRequest(resume_token=read_long.resume_token, next_event=read_long.next_event)
        resumed = other.inference.ResumeStream(resume)
        await resumed.initial_metadata()
        worker.release("hold:2 long")
        assert (await read_long.all(resumed)).ids == expected_ids("hold:2 long", 4)
        assert await asyncio.wait_for(process.wait(), 60) == 0
    assert len(worker.started) == 2


async def test_a_broker_that_goes_and_comes_back(
    tmp_path: Path, quick_config: GatewayConfig, serve_gateway: ServeGateway
) -> None:
    with EmbeddedBroker(tmp_path, port=0) as first:
        url, port = first.url, int(first.url.rpartition(":")[2])
        config = replace(quick_config, broker=url)
        with ScriptedWorker(url) as worker:
            async with serve_gateway(config) as service:
                health = HealthStub(service.channel)
                call = service.inference.GenerateStream(stream_request("hold:3 a", 10))
                read = await Read().until(call, 3)
                await asyncio.to_thread(first.stop)
                for refused in (
                    service.inference.GenerateStream(stream_request("b")),
                    service.inference.Generate(generate_request("b")),
                    service.inference.ResumeStream(pb.ResumeStreamRequest(resume_token=read.resume_token)),
                    service.inference.CancelRequest(pb.CancelRequestRequest(request_id="x")),
                ):
                    began = time.monotonic()
                    status = await status_of(refused)
                    assert (status.code, reason(status)) == (Code.UNAVAILABLE, "QUEUE_DOWN")
                    assert errors.is_retryable(status)
                    assert time.monotonic() - began < TIMEOUT_S  # at once: the broker is not waited for
                assert (await health.Check(HealthCheckRequest())).status == HealthCheckResponse.NOT_SERVING
                watch = health.Watch(HealthCheckRequest())
                assert (await watch.read()).status == HealthCheckResponse.NOT_SERVING
                with EmbeddedBroker(tmp_path, port=port):
                    worker.release("hold:3 a")
                    assert (await asyncio.wait_for(read.all(call), 60)).ids == expected_ids("hold:3 a", 10)
                    assert (await watch.read()).status == HealthCheckResponse.SERVING
                    again = await Read().all(service.inference.GenerateStream(stream_request("b")))
                    assert again.ids == expected_ids("b", 10)


async def test_calls_refused_while_the_broker_is_away_leave_nothing_to_be_done(
    tmp_path: Path, quick_config: GatewayConfig, serve_gateway: ServeGateway
) -> None:
    """A long outage under many calls: nothing was sent for them, and nothing of them is kept."""
    with EmbeddedBroker(tmp_path, port=0) as server, ScriptedWorker(server.url):
        async with serve_gateway(replace(quick_config, broker=server.url)) as service:
            health = HealthStub(service.channel).Watch(HealthCheckRequest())
            assert (await health.read()).status == HealthCheckResponse.SERVING
            await asyncio.to_thread(server.stop)
            assert (await health.read()).status == HealthCheckResponse.NOT_SERVING
            for _ in range(20):
                status = await status_of(service.inference.Generate(generate_request("a")))
                assert reason(status) == "QUEUE_DOWN"
            async with asyncio.timeout(20):
                await service.gateway.relay.flush()


async def test_frames_that_were_trimmed_before_they_were_read_are_repaired(
    broker_url: str, serve_gateway: ServeGateway, worker: ScriptedWorker
) -> None:
    async with serve_gateway() as service:
        prompts = ("hold:5 a", "hold:9 b")
        calls = {prompt: service.inference.GenerateStream(stream_request(prompt, 60)) for prompt in prompts}
        reads = {prompt: await Read().until(call, 5) for prompt, call in calls.items()}
        unary = asyncio.ensure_future(service.inference.Generate(generate_request("hold:2 c", request_id="u")))
        await asyncio.to_thread(worker.wait, lambda: len(worker.rows) == 3)
        run_unread(broker_url, worker, *prompts, "hold:2 c", keep=2)
        for prompt, call in calls.items():
            assert (await reads[prompt].all(call)).ids == expected_ids(prompt, 60)
        assert list((await unary).outputs[0].result.candidates[0].token_ids) == expected_ids("hold:2 c", 10)
        metrics = service.gateway.metrics.registry
        assert (metrics.get_sample_value("xlmstream_gaps_total") or 0) >= 1


async def test_a_lost_end_is_found_by_asking_after_silence(
    broker_url: str, serve_gateway: ServeGateway, worker: ScriptedWorker
) -> None:
    """The frames with all the rest are lost without a trace: no later frame tells of the gap."""
    async with serve_gateway() as service:
        call = service.inference.GenerateStream(stream_request("hold:5 a", 20))
        read = await Read().until(call, 5)
        run_unread(broker_url, worker, "hold:5 a")
        began = time.monotonic()
        assert (await read.all(call)).ids == expected_ids("hold:5 a", 20)
        assert time.monotonic() - began < 60  # and not at its deadline, two minutes later


@pytest.mark.parametrize("request_id", ["", "u"])
async def test_what_the_broker_has_forgotten_is_submitted_again(
    broker_url: str, serve_gateway: ServeGateway, worker: ScriptedWorker, request_id: str
) -> None:
    async with serve_gateway() as service:
        call = service.inference.GenerateStream(stream_request("hold:5 a", 20))
        read = await Read().until(call, 5)
        unary = asyncio.ensure_future(service.inference.Generate(generate_request("hold:2 b", request_id=request_id)))
        await asyncio.to_thread(worker.wait, lambda: len(worker.rows) == 2)
        with redis.Redis.from_url(broker_url) as client:
            client.flushdb()  # as a broker that comes back with nothing: the worker is fenced, and begins a new life
        await asyncio.to_thread(worker.wait, lambda: len(worker.started) >= 4, 30)
        worker.release("hold:5 a")
        worker.release("hold:2 b")
        assert (await read.all(call)).ids == expected_ids("hold:5 a", 20)
        assert list((await unary).outputs[0].result.candidates[0].token_ids) == expected_ids("hold:2 b", 10)
        assert (service.gateway.metrics.registry.get_sample_value("xlmstream_resubmitted_total") or 0) >= 2


async def test_a_unary_result_whose_frame_was_lost_is_computed_again(
    broker_url: str, serve_gateway: ServeGateway, worker: ScriptedWorker
) -> None:
    async with serve_gateway() as service:
        unary = asyncio.ensure_future(service.inference.Generate(generate_request("hold:2 a")))
        other = asyncio.ensure_future(service.inference.Generate(generate_request("hold:2 b")))
        await asyncio.to_thread(worker.wait, lambda: len(worker.rows) == 2)
        run_unread(broker_url, worker, "hold:2 b", "hold:2 a")
        assert list((await unary).outputs[0].result.candidates[0].token_ids) == expected_ids("hold:2 a", 10)
        assert list((await other).outputs[0].result.candidates[0].token_ids) == expected_ids("hold:2 b", 10)
        assert len(worker.started) == 3
