"""Bad input meets a typed error that names the field, at once; nobody else notices."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import grpc
import pytest
from e2e.service import BUSY_S, Service, until_async
from e2e.solo import Solo
from e2e.streams import Reading, request, with_options
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from grpc_status import rpc_status
from xlmstream.v1.common_pb2 import RequestOptions, TextInput, TokenIds
from xlmstream.v1.inference_pb2 import GenerateStreamRequest

if TYPE_CHECKING:
    from xlmstream.v1.inference_pb2_grpc import InferenceServiceAsyncStub

METHOD = "/xlmstream.v1.InferenceService/GenerateStream"
INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


def with_input(given: TextInput) -> GenerateStreamRequest:
    return GenerateStreamRequest(options=RequestOptions(model="toy"), input=given)


def with_language(language: str) -> GenerateStreamRequest:
    return with_input(TextInput(text="the", language=language))


def invalid_utf8() -> bytes:
    good = with_input(TextInput(text="thXX lord")).SerializeToString()
    assert b"XX" in good
    return good.replace(b"XX", b"\xc3\x28")


# name: (request, code, reason, field named in the BadRequest, or None)
BAD = {
    "empty text": (request(""), INVALID, "INVALID_INPUT", "input.text"),
    "white space": (request(" \n "), INVALID, "INVALID_INPUT", "input.text"),
    "control characters": (request("\u200d\u0007"), INVALID, "INVALID_INPUT", "input.text"),
    "no input": (GenerateStreamRequest(options=RequestOptions(model="toy")), INVALID, "INVALID_INPUT", "input"),
    "unknown model": (with_options(request("the"), model="gpt"), NOT_FOUND, "MODEL_NOT_FOUND", None),
    "unknown version": (with_options(request("the"), model="toy@7"), NOT_FOUND, "MODEL_NOT_FOUND", None),
    "10,000 tokens": (request("the " * 10_000), INVALID, "INPUT_TOO_LONG", "input.text"),
    "10,000 ids": (
        with_input(TextInput(token_ids=TokenIds(ids=[20] * 10_000))),
        INVALID,
        "INPUT_TOO_LONG",
        "input.token_ids.ids",
    ),
    "2,000-character word": (request("x" * 2_000), INVALID, "INPUT_TOO_LONG", "input.text"),
    "negative temperature": (request("the", temperature=-0.5), INVALID, "INVALID_INPUT", "parameters.temperature"),
    "temperature not a number": (
        request("the", temperature=float("nan")),
        INVALID,
        "INVALID_INPUT",
        "parameters.temperature",
    ),
    "max_new_tokens 0": (request("the", 0), INVALID, "INVALID_INPUT", "parameters.max_new_tokens"),
    "min above max": (request("the", 2, min_new_tokens=3), INVALID, "INVALID_INPUT", "parameters.min_new_tokens"),
    "top_p 0": (request("the", top_p=0.0), INVALID, "INVALID_INPUT", "parameters.top_p"),
    "top_p above 1": (request("the", top_p=1.5), INVALID, "INVALID_INPUT", "parameters.top_p"),
    "top_k 0": (request("the", top_k=0), INVALID, "INVALID_INPUT", "parameters.top_k"),
    "empty stop string": (request("the", stop=["a", ""]), INVALID, "INVALID_INPUT", "parameters.stop[1]"),
    "ids out of range": (
        with_input(TextInput(token_ids=TokenIds(ids=[20, 5_000]))),
        INVALID,
        "INVALID_INPUT",
        "input.token_ids.ids[1]",
    ),
    "no ids": (with_input(TextInput(token_ids=TokenIds())), INVALID, "INVALID_INPUT", "input.token_ids.ids"),
    "unknown language": (with_language("xx"), INVALID, "INVALID_INPUT", "input.language"),
    "invalid UTF-8": (invalid_utf8(), INVALID, "INVALID_INPUT", None),
}


async def refused(channel: grpc.aio.Channel, bad: GenerateStreamRequest | bytes) -> tuple[grpc.aio.AioRpcError, float]:
    """The error of a call, and how long it took in seconds."""
    # The generated stubs cannot send what is no valid message.
    call = channel.unary_stream(METHOD, request_serializer=None, response_deserializer=None)
    asked = time.perf_counter()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call(bad if isinstance(bad, bytes) else bad.SerializeToString(), timeout=10):
            pass
    return caught.value, time.perf_counter() - asked


LEASE_S = 30.0


async def test_every_kind_of_bad_input_beside_healthy_streams(
    service: Service, stub: InferenceServiceAsyncStub, solo: Solo
) -> None:
    worker = service.worker(step_ms=30, lease_s=LEASE_S)
    service.wait_serving()
    prompts = ["the", "and", "in 日", "lord x"]
    readings = [Reading() for _ in prompts]
    took_s = []
    async with grpc.aio.insecure_channel(service.address) as channel, asyncio.TaskGroup() as group:
        for reading, prompt in zip(readings, prompts, strict=True):
            group.create_task(reading.read(stub.GenerateStream(request(prompt))))
        await until_async(lambda: all(len(reading.ids) >= 2 for reading in readings), "some tokens")
        for name, (bad, code, reason, field) in BAD.items():
            error, seconds = await refused(channel, bad)
            took_s.append(seconds)
            assert error.code() is code, f"{name}: {error}"
            status = rpc_status.from_call(error)
            info, fields = ErrorInfo(), BadRequest()
            status.details[0].Unpack(info)
            assert info.reason == reason, name
            if field is not None:
                assert any(detail.Unpack(fields) for detail in status.details), name
                assert [violation.field for violation in fields.field_violations] == [field], name
        assert not all(reading.finished for reading in readings)
    for reading, prompt in zip(readings, prompts, strict=True):
        assert len(reading.ids) == 60
        solo.check(prompt, reading.ids)
        assert reading.longest_pause_s < LEASE_S / 2  # nobody's work had to be taken over
    assert min(took_s) < 0.05  # on a busy machine not each of them
    assert max(took_s) < BUSY_S
    assert worker.alive
    assert not worker.told("preparing failed")
    service.wait_clean()


async def test_long_prompts_are_cut_where_truncation_is_asked_for(
    service: Service, stub: InferenceServiceAsyncStub
) -> None:
    service.worker()
    service.wait_serving()
    for keep in (1, 2):
        reading = await Reading().read(stub.GenerateStream(with_options(request("the " * 500, 9), truncation=keep)))
        assert len(reading.ids) == 9


async def test_parameters_of_sampling_reach_the_engine(service: Service, stub: InferenceServiceAsyncStub) -> None:
    service.worker()
    service.wait_serving()

    async def text(**parameters: object) -> str:
        return (await Reading().read(stub.GenerateStream(request("the", 40, **parameters)))).text

    greedy = await text()
    assert await text(temperature=1.5, top_k=1, seed=1) == greedy
    assert await text(temperature=1.5, top_p=1e-6, seed=1) == greedy
    drawn = await text(temperature=1.5, seed=1)
    assert drawn not in (greedy, await text(temperature=1.5, seed=2))
    assert drawn == await text(temperature=1.5, seed=1)
    stop = greedy[10:14]
    assert await text(stop=[stop]) == greedy[: greedy.index(stop)].rstrip(" ")
