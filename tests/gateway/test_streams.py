"""Streams: cancelled, detached, resumed, joined, slow, silent, late."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import grpc
import grpc.aio
import pytest
from gateway.conftest import ServeGateway, Service
from gateway.helpers import Read, details, generate_request, reason, reason_in, status_of, stream_request
from gateway.scripted_worker import ScriptedWorker, expected_ids, text_of
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import RetryInfo
from xlmstream.v1 import inference_pb2 as pb
from xlmstream.v1.common_pb2 import DISCONNECT_POLICY_CANCEL, DISCONNECT_POLICY_DETACH
from xlmstream_server.broker import Stop
from xlmstream_server.config import GatewayConfig

# Of calls whose own clock may end them before the service does, on a busy machine.
MOST_TRIES = 30


async def rows_left(worker: ScriptedWorker, count: int) -> None:
    await asyncio.to_thread(worker.wait, lambda: len(worker.rows) == count)


async def test_a_cancelled_stream_frees_its_row(service: Service, worker: ScriptedWorker) -> None:
    call = service.inference.GenerateStream(stream_request("hold:3 a", 100))
    await Read().until(call, 3)
    call.cancel()
    await rows_left(worker, 0)
    assert list(worker.stopped.values()) in ([Stop.CANCELLED], [Stop.ORPHANED])
    assert service.gateway.relay.open_executions == 0


async def test_100_cancelled_streams_leave_nothing_behind(service: Service, worker: ScriptedWorker) -> None:
    calls = [service.inference.GenerateStream(stream_request(f"hold:2 {i}", 50)) for i in range(100)]
    for call in calls[: len(calls) // 2]:  # as many as the worker runs at once, more or less; the others still wait
        await call.initial_metadata()
    for call in calls:
        call.cancel()
    await asyncio.gather(*(call.code() for call in calls))
    await rows_left(worker, 0)
    await asyncio.to_thread(worker.wait, lambda: service.gateway.relay.open_executions == 0)


async def test_a_detached_stream_goes_on_and_is_taken_up_again(service: Service, worker: ScriptedWorker) -> None:
    request = stream_request("hold:3 a", 20, disconnect_policy=DISCONNECT_POLICY_DETACH)
    call = service.inference.GenerateStream(request)
    read = await Read().until(call, 3)
    call.cancel()
    worker.release("hold:3 a")
    await rows_left(worker, 0)
    assert not worker.stopped
    resume = pb.ResumeStreamRequest(resume_token=read.resume_token, next_event=read.next_event)
    await read.all(service.inference.ResumeStream(resume))
    assert read.finished
    assert (read.ids, read.text) == (expected_ids("hold:3 a", 20), text_of(expected_ids("hold:3 a", 20)))


async def test_after_a_dropped_call_with_cancel_the_journal_is_replayed_and_ends_cancelled(
    service: Service, worker: ScriptedWorker
) -> None:
    call = service.inference.GenerateStream(stream_request("hold:3 a", 20))
    read = await Read().until(call, 3)
    call.cancel()
    await rows_left(worker, 0)
    again = Read()
    resumed = service.inference.ResumeStream(pb.ResumeStreamRequest(resume_token=read.resume_token))
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await again.all(resumed)
    assert ended.value.code() == grpc.StatusCode.CANCELLED
    assert again.ids == expected_ids("hold:3 a", 3)


async def test_a_finished_stream_can_be_read_again_from_any_event(service: Service) -> None:
    first = await Read().all(service.inference.GenerateStream(stream_request("a", 10)))
    for next_event in range(first.next_event + 1):
        request = pb.ResumeStreamRequest(resume_token=first.resume_token, next_event=next_event)
        again = await Read(next_event=next_event).all(service.inference.ResumeStream(request))
        assert again.next_event == first.next_event
        assert again.ids == first.ids[max(0, next_event - 1) :]
        assert again.finished == (next_event < first.next_event)
    request = pb.ResumeStreamRequest(resume_token=first.resume_token, next_event=first.next_event + 1)
    status = await status_of(service.inference.ResumeStream(request))
    assert (status.code, reason(status)) == (Code.OUT_OF_RANGE, "CURSOR_EXPIRED")


async def test_a_failed_stream_fails_again_for_whoever_has_read_it_all(service: Service) -> None:
    read = Read()
    with pytest.raises(grpc.aio.AioRpcError):
        await read.all(service.inference.GenerateStream(stream_request("fail a")))
    for next_event in (read.next_event, read.next_event + 1):
        request = pb.ResumeStreamRequest(resume_token=read.resume_token, next_event=next_event)
        assert reason(await status_of(service.inference.ResumeStream(request))) == "INTERNAL"


async def test_a_token_opens_its_own_stream_only(service: Service) -> None:
    first = await Read().all(service.inference.GenerateStream(stream_request("a")))
    other = await Read().all(service.inference.GenerateStream(stream_request("b")))
    execution_id, _, secret = first.resume_token.partition(".")
    unknown = "0" * 2 + "a" * 26
    tokens = (
        "",
        "nonsense",
        execution_id,
        execution_id + ".",
        f"{execution_id}.{secret[:-1]}",
        f"{execution_id}.{secret[:-1]}{'A' if secret[-1] != 'A' else 'B'}",
        f"{execution_id}.{other.resume_token.partition('.')[2]}",
        f"{unknown}.{secret}",
        f"{execution_id}.{secret}\n",
    )
    requests = [pb.ResumeStreamRequest(resume_token=token) for token in tokens]
    statuses = [await status_of(service.inference.ResumeStream(request)) for request in requests]
    assert {reason(status) for status in statuses} == {"REQUEST_NOT_FOUND"}
    assert {status.message for status in statuses} == {statuses[0].message}


async def test_the_results_of_a_unary_call_have_no_token(service: Service, worker: ScriptedWorker) -> None:
    call = service.inference.Generate(generate_request("a", request_id="u1"))
    await call
    execution_id = dict(await call.trailing_metadata())["x-execution-id"]
    request = pb.ResumeStreamRequest(resume_token=execution_id + ".")
    assert reason(await status_of(service.inference.ResumeStream(request))) == "REQUEST_NOT_FOUND"


async def test_resume_on_another_gateway_and_two_listeners_at_once(
    serve_gateway: ServeGateway, worker: ScriptedWorker
) -> None:
    async with serve_gateway() as one, serve_gateway() as two:
        call = one.inference.GenerateStream(stream_request("hold:5 a", 30))
        read = await Read().until(call, 5)
        elsewhere = two.inference.ResumeStream(pb.ResumeStreamRequest(resume_token=read.resume_token, next_event=3))
        beside = one.inference.ResumeStream(pb.ResumeStreamRequest(resume_token=read.resume_token))
        other, third = await Read(next_event=3).until(elsewhere, 3), await Read().until(beside, 5)
        worker.release("hold:5 a")
        await asyncio.gather(read.all(call), other.all(elsewhere), third.all(beside))
        expected = expected_ids("hold:5 a", 30)
        assert (read.ids, other.ids, third.ids) == (expected, expected[2:], expected)
        assert len(worker.started) == 1


async def test_the_first_caller_leaves_and_the_second_keeps_the_work(
    serve_gateway: ServeGateway, worker: ScriptedWorker
) -> None:
    async with serve_gateway() as one, serve_gateway() as two:
        call = one.inference.GenerateStream(stream_request("hold:5 a", 30))
        read = await Read().until(call, 5)
        elsewhere = two.inference.ResumeStream(pb.ResumeStreamRequest(resume_token=read.resume_token))
        other = await Read().until(elsewhere, 5)
        call.cancel()
        await one.gateway.relay.flush()
        worker.release("hold:5 a")
        assert (await other.all(elsewhere)).ids == expected_ids("hold:5 a", 30)
        assert not worker.stopped


async def test_duplicates_from_two_gateways_run_once_and_answer_alike(
    serve_gateway: ServeGateway, worker: ScriptedWorker
) -> None:
    async with serve_gateway() as one, serve_gateway() as two:
        streams = [
            Read().all(service.inference.GenerateStream(stream_request("a", 20, request_id="s1")))
            for service in (one, two)
            for _ in range(10)
        ]
        unary = [
            service.inference.Generate(generate_request("b", "c", tokens=20, request_id="u1"))
            for service in (one, two)
            for _ in range(10)
        ]
        reads, responses = await asyncio.gather(asyncio.gather(*streams), asyncio.gather(*unary))
        assert len(worker.started) == 3
        assert all(read.ids == expected_ids("a", 20) and read.finished for read in reads)
        assert len({read.resume_token for read in reads}) == 1
        assert all(response == responses[0] for response in responses)
        assert list(responses[0].outputs[1].result.candidates[0].token_ids) == expected_ids("c", 20)


async def test_a_request_id_with_other_content_is_refused(service: Service, worker: ScriptedWorker) -> None:
    await Read().all(service.inference.GenerateStream(stream_request("a", request_id="r")))
    await service.inference.Generate(generate_request("b", "c", request_id="u"))
    for call in (
        service.inference.GenerateStream(stream_request("b", request_id="r")),
        service.inference.GenerateStream(stream_request("a", 11, request_id="r")),
        service.inference.Generate(generate_request("x", "c", request_id="u")),
        service.inference.Generate(generate_request("b", "x", request_id="u")),
        service.inference.Tokenize(pb.TokenizeRequest(options={"request_id": "u"}, inputs=[{"text": "b"}])),
    ):
        status = await status_of(call)
        assert (status.code, reason(status)) == (Code.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    assert len(worker.started) == 3


async def test_a_unary_call_repeated_after_a_broken_connection_joins_its_own_work(
    service: Service, worker: ScriptedWorker
) -> None:
    request = generate_request("hold:2 a", request_id="u")
    call = service.inference.Generate(request)
    await rows_left(worker, 1)
    call.cancel()
    await asyncio.to_thread(worker.wait, lambda: service.gateway.relay.open_executions == 0)
    await service.gateway.relay.flush()
    again = asyncio.ensure_future(service.inference.Generate(request))
    await asyncio.to_thread(worker.wait, lambda: service.gateway.relay.open_executions == 1)
    worker.release("hold:2 a")
    response = await again
    assert list(response.outputs[0].result.candidates[0].token_ids) == expected_ids("hold:2 a", 10)
    assert len(worker.started) == 1


@pytest.mark.parametrize("options", [{}, {"request_id": "u", "disconnect_policy": DISCONNECT_POLICY_CANCEL}])
async def test_a_unary_call_that_is_dropped_stops_its_work(
    service: Service, worker: ScriptedWorker, options: dict[str, object]
) -> None:
    call = service.inference.Generate(generate_request("hold:2 a", "hold:2 b", **options))
    await rows_left(worker, 2)
    call.cancel()
    await rows_left(worker, 0)
    assert len(worker.stopped) == 2


async def test_cancel_request(service: Service, worker: ScriptedWorker) -> None:
    named = service.inference.GenerateStream(stream_request("hold:2 a", request_id="r"))
    unnamed = service.inference.GenerateStream(stream_request("hold:2 b"))
    unary = service.inference.Generate(generate_request("hold:2 c", " ", "hold:2 d", "hold:2 e", request_id="u"))
    await rows_left(worker, 5)
    execution_id = dict(await unnamed.initial_metadata())["x-execution-id"]
    targets = [
        pb.CancelRequestRequest(request_id="r"),
        pb.CancelRequestRequest(execution_id=execution_id),
        pb.CancelRequestRequest(request_id="u"),
    ]
    for target in targets:
        assert (await service.inference.CancelRequest(target)).cancelled
    assert reason(await status_of(named)) == reason(await status_of(unnamed)) == "CANCELLED"
    outputs = (await unary).outputs
    assert [reason(output.error) for output in outputs] == ["CANCELLED", "INVALID_INPUT", "CANCELLED", "CANCELLED"]
    await rows_left(worker, 0)
    for target in targets:
        assert not (await service.inference.CancelRequest(target)).cancelled


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (pb.CancelRequestRequest(), "INVALID_INPUT"),
        (pb.CancelRequestRequest(request_id="a b"), "INVALID_INPUT"),
        (pb.CancelRequestRequest(request_id=""), "INVALID_INPUT"),
        (pb.CancelRequestRequest(request_id="never-heard-of"), "REQUEST_NOT_FOUND"),
        (pb.CancelRequestRequest(execution_id="00" + "a" * 26), "REQUEST_NOT_FOUND"),
        (pb.CancelRequestRequest(execution_id="ff" + "a" * 26), "REQUEST_NOT_FOUND"),
        (pb.CancelRequestRequest(execution_id="../../etc/passwd"), "REQUEST_NOT_FOUND"),
        (pb.CancelRequestRequest(execution_id=""), "REQUEST_NOT_FOUND"),
    ],
)
async def test_cancel_of_what_is_not_there(service: Service, target: pb.CancelRequestRequest, expected: str) -> None:
    assert reason(await status_of(service.inference.CancelRequest(target))) == expected


async def test_silence_is_filled_with_heartbeats(service: Service, worker: ScriptedWorker) -> None:
    call = service.inference.GenerateStream(stream_request("hold:2 a", 5))
    read = await Read().until(call, 2)
    while read.heartbeats < 2:
        read.take((await call.read()).event)
    worker.release("hold:2 a")
    assert (await read.all(call)).ids == expected_ids("hold:2 a", 5)


async def test_heartbeats_come_also_while_the_request_waits(
    serve_gateway: ServeGateway, worker: ScriptedWorker
) -> None:
    worker.takes = False
    async with serve_gateway() as service:
        call = service.inference.GenerateStream(stream_request("a", 5))
        event = (await call.read()).event
        assert (event.first_event, event.event_count, event.HasField("heartbeat")) == (0, 0, True)
        worker.takes = True
        assert (await Read().all(call)).ids == expected_ids("a", 5)


async def test_what_comes_together_is_sent_together(service: Service) -> None:
    read = await Read().all(service.inference.GenerateStream(stream_request("burst:100 a", 500)))
    assert (read.ids, read.text) == (expected_ids("burst:100 a", 500), text_of(expected_ids("burst:100 a", 500)))
    assert read.next_event == 503
    assert read.messages < 60


async def test_a_reader_that_is_too_slow_is_repaired_from_the_journal(
    serve_gateway: ServeGateway, quick_config: GatewayConfig, worker: ScriptedWorker
) -> None:
    config = replace(quick_config, streams=replace(quick_config.streams, buffer_events=16))
    async with serve_gateway(config) as service:
        request = stream_request("big:20000 a", 400)
        call = service.inference.GenerateStream(request)
        read = await Read().until(call, 1)
        healthy = [Read().all(service.inference.GenerateStream(stream_request(f"h{i}", 200))) for i in range(8)]
        for i, other in enumerate(await asyncio.gather(*healthy)):  # the reader sleeps, the others do not
            assert other.ids == expected_ids(f"h{i}", 200)
        await rows_left(worker, 0)
        await read.all(call)
        assert read.ids == expected_ids("big:20000 a", 400)
        assert read.finished
        metrics = service.gateway.metrics.registry
        assert (metrics.get_sample_value("xlmstream_repairs_total") or 0) >= 1


async def reason_of_lateness(call: grpc.aio.Call) -> str | None:
    """The reason of a call that must end with DEADLINE_EXCEEDED; None where its own clock ended it first."""
    with pytest.raises(grpc.aio.AioRpcError) as late:
        await (call if isinstance(call, grpc.aio.UnaryUnaryCall) else Read().all(call))
    assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    return reason_in(late.value)


async def answered(call: Callable[[], Awaitable[pb.GenerateResponse]]) -> pb.GenerateResponse:
    """The response that a call has just before its deadline."""
    for _ in range(MOST_TRIES):
        with contextlib.suppress(grpc.aio.AioRpcError):
            return await call()
    raise AssertionError("each call ended by its own clock")


async def test_a_deadline_that_passes_in_the_queue_is_answered_on_time_and_nothing_runs(
    serve_gateway: ServeGateway, worker: ScriptedWorker
) -> None:
    """The best of some calls: the caller's own clock may cut one off before the reason has reached it."""
    worker.takes = False
    async with serve_gateway() as service:
        await service.inference.Generate(generate_request(" "))  # the connection is up
        for method, request in (
            (service.inference.GenerateStream, stream_request("a")),
            (service.inference.Generate, generate_request("a", "b")),
        ):
            took_s, reasons = [], []
            while len(reasons) < MOST_TRIES and reasons.count("DEADLINE_QUEUE") < 3:
                began = time.monotonic()
                reasons.append(await reason_of_lateness(method(request, timeout=0.1)))
                took_s.append(time.monotonic() - began)
            assert 0.05 <= min(took_s) <= 0.15
            assert set(reasons) <= {"DEADLINE_QUEUE", None}
            assert reasons.count("DEADLINE_QUEUE") == 3
        worker.takes = True
        await Read().all(service.inference.GenerateStream(stream_request("c")))
        assert len(worker.started) == 1


async def test_a_deadline_that_passes_while_it_runs(service: Service, worker: ScriptedWorker) -> None:
    reasons: list[str | None] = []
    while len(reasons) < MOST_TRIES and reasons.count("DEADLINE_COMPUTE") < 3:
        late = service.inference.GenerateStream(stream_request("hold:2 a"), timeout=0.4)
        reasons.append(await reason_of_lateness(late))
    # On a busy machine a worker may come to a request too late.
    assert set(reasons) <= {"DEADLINE_COMPUTE", "DEADLINE_QUEUE", None}
    assert reasons.count("DEADLINE_COMPUTE") == 3
    await rows_left(worker, 0)
    response = await answered(lambda: service.inference.Generate(generate_request("b", "hold:2 a"), timeout=2))
    assert list(response.outputs[0].result.candidates[0].token_ids) == expected_ids("b", 10)
    assert reason(response.outputs[1].error) == "DEADLINE_COMPUTE"
    await rows_left(worker, 0)


async def test_unary_calls_beyond_the_limit_are_refused_with_a_time_to_come_back(
    serve_gateway: ServeGateway, quick_config: GatewayConfig, worker: ScriptedWorker
) -> None:
    config = replace(quick_config, limits=replace(quick_config.limits, max_unary_calls=2))
    async with serve_gateway(config) as service:
        calls = [service.inference.Generate(generate_request(f"hold:1 {i}")) for i in range(2)]
        await rows_left(worker, 2)
        status = await status_of(service.inference.Generate(generate_request("c")))
        assert (status.code, reason(status)) == (Code.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        assert details(status, RetryInfo)
        for i in range(2):
            worker.release(f"hold:1 {i}")
        await asyncio.gather(*calls)
        await service.inference.Generate(generate_request("c"))


async def test_a_request_that_costs_more_than_may_wait_comes_in_alone(
    serve_gateway: ServeGateway, quick_config: GatewayConfig, worker: ScriptedWorker
) -> None:
    """Refused, it would come back for ever."""
    worker.takes = False
    config = replace(quick_config, queue=replace(quick_config.queue, queue_max_tokens=100))
    async with serve_gateway(config) as service:
        costly = service.inference.GenerateStream(stream_request("p", 150))
        await costly.initial_metadata()
        status = await status_of(service.inference.GenerateStream(stream_request("q", 1)))
        assert (status.code, reason(status)) == (Code.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        worker.takes = True
        assert (await Read().all(costly)).ids == expected_ids("p", 150)


async def test_a_full_queue_refuses_with_a_time_to_come_back_and_loses_nothing(
    serve_gateway: ServeGateway, quick_config: GatewayConfig, worker: ScriptedWorker
) -> None:
    worker.takes = False
    config = replace(quick_config, queue=replace(quick_config.queue, queue_max_requests=3))
    async with serve_gateway(config) as service:
        accepted = [service.inference.GenerateStream(stream_request(f"p{i}")) for i in range(2)]
        for call in accepted:
            await call.initial_metadata()
        partly = asyncio.ensure_future(service.inference.Generate(generate_request("x", "y")))
        await asyncio.to_thread(worker.wait, lambda: service.gateway.relay.open_executions == 3)
        for refused in (
            service.inference.GenerateStream(stream_request("z")),
            service.inference.Generate(generate_request("z")),
        ):
            status = await status_of(refused)
            assert (status.code, reason(status)) == (Code.RESOURCE_EXHAUSTED, "QUEUE_FULL")
            assert details(status, RetryInfo)[0].retry_delay.ToMilliseconds() > 0
        worker.takes = True
        for i, call in enumerate(accepted):
            assert (await Read().all(call)).ids == expected_ids(f"p{i}", 10)
        first, second = (await partly).outputs  # accepted with its first input, it waited for room for the second
        assert list(first.result.candidates[0].token_ids) == expected_ids("x", 10)
        assert list(second.result.candidates[0].token_ids) == expected_ids("y", 10)
