"""Bad input: a typed error that names the field, before anything is queued; good input is left alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import pytest
from gateway.conftest import ServeGateway, Service
from gateway.helpers import fields, reason, status_of, stream_request
from gateway.scripted_worker import MAX_INPUT_TOKENS, VOCABULARY_SIZE, ScriptedWorker, card
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, PreconditionFailure, ResourceInfo
from google.rpc.status_pb2 import Status
from xlmstream.v1 import inference_pb2 as pb
from xlmstream.v1.common_pb2 import TRUNCATION_KEEP_END, Task
from xlmstream.v1.models_pb2 import DecodingMode
from xlmstream_server import errors

Change = Callable[[pb.GenerateStreamRequest], object]


def described(status: Status) -> str:
    bad = BadRequest()
    assert any(detail.Unpack(bad) for detail in status.details)
    return bad.field_violations[0].description


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        (lambda r: r.input.Clear(), "input", "exactly one of text and token_ids"),
        (lambda r: setattr(r.input, "text", ""), "input.text", "empty"),
        (lambda r: setattr(r.input, "text", " \n\t\u2003"), "input.text", "white space"),
        (lambda r: setattr(r.input, "text", "é" * 600_000), "input.text", "1200000 bytes of UTF-8; at most 1048576"),
        (lambda r: r.input.token_ids.SetInParent(), "input.token_ids.ids", "at least one"),
        (lambda r: r.input.token_ids.ids.extend([1, 2, VOCABULARY_SIZE]), "input.token_ids.ids[2]", "0 to 999"),
        (lambda r: setattr(r.input, "language", "xx"), "input.language", "supported: en, fr, de"),
        (lambda r: setattr(r.input, "language", ""), "input.language", "supported: en, fr, de"),
        (lambda r: setattr(r.options, "request_id", "a b"), "options.request_id", "1 to 128 letters"),
        (lambda r: setattr(r.options, "request_id", "x" * 129), "options.request_id", "1 to 128 letters"),
        (lambda r: setattr(r.options, "request_id", "a\n"), "options.request_id", "1 to 128 letters"),
        (lambda r: setattr(r.options, "priority", 17), "options.priority", "17 is not one of PRIORITY_UNSPECIFIED"),
        (lambda r: setattr(r.options, "truncation", -1), "options.truncation", "-1 is not one of"),
        (lambda r: setattr(r.options, "disconnect_policy", 9), "options.disconnect_policy", "9 is not one of"),
        (lambda r: setattr(r.parameters, "max_new_tokens", 0), "parameters.max_new_tokens", "0 is out of range: 1 to"),
        (
            lambda r: setattr(r.parameters, "max_new_tokens", 2049),
            "parameters.max_new_tokens",
            "out of range: 1 to 2048",
        ),
        (
            lambda r: setattr(r.parameters, "min_new_tokens", 11),
            "parameters.min_new_tokens",
            "11 is out of range: 0 to 10",
        ),
        (
            lambda r: setattr(r.parameters, "temperature", -0.5),
            "parameters.temperature",
            "-0.5 is out of range: 0 to 100",
        ),
        (lambda r: setattr(r.parameters, "temperature", math.nan), "parameters.temperature", "nan is out of range"),
        (lambda r: setattr(r.parameters, "temperature", math.inf), "parameters.temperature", "inf is out of range"),
        (lambda r: setattr(r.parameters, "top_k", 0), "parameters.top_k", "0 is out of range: 1 to 1000"),
        (lambda r: setattr(r.parameters, "top_k", 1001), "parameters.top_k", "1001 is out of range"),
        (lambda r: setattr(r.parameters, "top_p", 0), "parameters.top_p", "0 is out of range: above 0, at most 1"),
        (lambda r: setattr(r.parameters, "top_p", 1.01), "parameters.top_p", "out of range"),
        (lambda r: setattr(r.parameters, "min_p", 1.5), "parameters.min_p", "out of range"),
        (lambda r: setattr(r.parameters, "typical_p", 0), "parameters.typical_p", "above 0, at most 1"),
        (
            lambda r: setattr(r.parameters, "repetition_penalty", math.nan),
            "parameters.repetition_penalty",
            "nan is out",
        ),
        (
            lambda r: setattr(r.parameters, "repetition_penalty", 1e-38),
            "parameters.repetition_penalty",
            "1e-38 is out of range: 0.01 to 100",
        ),
        (lambda r: setattr(r.parameters, "presence_penalty", 101), "parameters.presence_penalty", "out of range"),
        (
            lambda r: setattr(r.parameters, "frequency_penalty", math.nan),
            "parameters.frequency_penalty",
            "out of range",
        ),
        (lambda r: r.parameters.bad_words.append(""), "parameters.bad_words[0]", "1 to 256"),
        (lambda r: r.parameters.stop_token_ids.append(10**6), "parameters.stop_token_ids", "ids must be below"),
        (lambda r: r.parameters.logit_bias.update({5: 101}), "parameters.logit_bias[5]", "out of range"),
        (
            lambda r: setattr(r.parameters, "num_return_sequences", 0),
            "parameters.num_return_sequences",
            "0 is out of range: 1 to 4096",
        ),
        (
            lambda r: setattr(r.parameters, "num_return_sequences", 4097),
            "parameters.num_return_sequences",
            "4097 is out of range: 1 to 4096",
        ),
        (
            lambda r: setattr(r.parameters, "num_beams", 4097),
            "parameters.num_beams",
            "4097 is out of range: 1 to 4096",
        ),
        (
            lambda r: setattr(r.parameters, "decoding_mode", DecodingMode.DECODING_MODE_MASK_APPEND),
            "parameters.decoding_mode",
            "DECODING_MODE_MASK_APPEND is not supported by this model; supported: DECODING_MODE_NEXT_TOKEN",
        ),
        (lambda r: setattr(r.parameters, "decoding_mode", 77), "parameters.decoding_mode", "77 is not supported"),
        (lambda r: setattr(r.parameters, "num_beams", 0), "parameters.num_beams", "0 is out of range: 1 to 4096"),
        (lambda r: setattr(r.parameters, "top_logprobs", 21), "parameters.top_logprobs", "out of range"),
        (lambda r: setattr(r.parameters, "length_penalty", 11), "parameters.length_penalty", "out of range"),
        (lambda r: setattr(r.parameters, "top_p", math.nan), "parameters.top_p", "nan is out of range"),
        (lambda r: r.parameters.stop.extend(["x"] * 17), "parameters.stop", "17 stop strings; at most 16"),
        (lambda r: r.parameters.stop.extend(["x", ""]), "parameters.stop[1]", "0 characters; 1 to 256"),
        (lambda r: r.parameters.stop.append("x" * 257), "parameters.stop[0]", "257 characters"),
    ],
)
async def test_a_bad_field_is_named(
    service: Service, worker: ScriptedWorker, change: Change, field: str, says: str
) -> None:
    request = stream_request("a")
    change(request)
    status = await status_of(service.inference.GenerateStream(request))
    assert (status.code, reason(status)) == (Code.INVALID_ARGUMENT, "INVALID_INPUT")
    assert fields(status) == [field]
    assert says in described(status)
    unary = pb.GenerateRequest(options=request.options, inputs=[request.input], parameters=request.parameters)
    if field.startswith("input"):
        status = (await service.inference.Generate(unary)).outputs[0].error
        assert fields(status) == [field.replace("input", "inputs[0]", 1)]
    else:
        status = await status_of(service.inference.Generate(unary))
        assert fields(status) == [field]
    assert not worker.started


async def test_everything_that_is_wrong_is_said_at_once_in_milliseconds(service: Service) -> None:
    request = stream_request("a", request_id="?")
    request.parameters.temperature = -1
    request.parameters.top_p = 0
    await status_of(service.inference.GenerateStream(request))  # the connection is up
    took_s = []
    for _ in range(10):
        began = time.perf_counter()
        status = await status_of(service.inference.GenerateStream(request))
        took_s.append(time.perf_counter() - began)
    assert min(took_s) < 0.1  # on a busy machine not each of them
    assert fields(status) == ["options.request_id", "parameters.temperature", "parameters.top_p"]


async def test_limits_themselves_are_accepted(service: Service) -> None:
    request = stream_request("x" * 1_048_576, request_id="A.b_c:9-" + "z" * 120)
    parameters = request.parameters
    parameters.max_new_tokens, parameters.min_new_tokens, parameters.seed = 1, 1, 2**64 - 1
    parameters.temperature, parameters.top_k, parameters.top_p = 100, VOCABULARY_SIZE, 1
    parameters.stop.extend(["é" * 256] * 16)
    async for _ in service.inference.GenerateStream(request):
        pass


async def test_ids_that_are_too_many_for_the_model(service: Service) -> None:
    request = stream_request("a")
    request.input.token_ids.ids.extend([1] * (MAX_INPUT_TOKENS + 1))
    status = await status_of(service.inference.GenerateStream(request))
    info = errors.error_info(status)
    assert info is not None
    assert (info.reason, info.metadata["tokens"], info.metadata["max"]) == ("INPUT_TOO_LONG", "513", "512")
    assert fields(status) == ["input.token_ids.ids"]
    request.options.truncation = TRUNCATION_KEEP_END
    async for _ in service.inference.GenerateStream(request):
        pass


@pytest.mark.parametrize("count", [0, 257])
async def test_the_number_of_inputs(service: Service, count: int) -> None:
    for call in (
        service.inference.Generate(pb.GenerateRequest(inputs=[{"text": "a"}] * count)),
        service.inference.Tokenize(pb.TokenizeRequest(inputs=[{"text": "a"}] * count)),
        service.inference.Detokenize(pb.DetokenizeRequest(inputs=[{"ids": [1]}] * count)),
    ):
        status = await status_of(call)
        assert fields(status) == ["inputs"]
        assert described(status) == f"{count} inputs; 1 to 256 are taken"


async def test_which_model(broker_url: str, serve_gateway: ServeGateway) -> None:
    cards = [card("toy", "9"), card("toy", "10"), card("tags", "1", [Task.TASK_TOKENIZE])]
    with ScriptedWorker(broker_url, models=cards) as worker:
        async with serve_gateway() as service:
            stream = service.inference.GenerateStream
            status = await status_of(stream(stream_request("a")))
            assert (reason(status), fields(status)) == ("INVALID_INPUT", ["options.model"])
            assert "tags@1, toy@10, toy@9" in status.message
            status = await status_of(stream(stream_request("a", model="tyo")))
            assert (status.code, reason(status)) == (Code.NOT_FOUND, "MODEL_NOT_FOUND")
            assert ResourceInfo.DESCRIPTOR.full_name in {detail.TypeName() for detail in status.details}
            info = errors.error_info(status)
            assert info is not None
            assert info.metadata["models"] == "tags@1, toy@10, toy@9"
            for name in ("toy@11", "toy@", "@9", "toy@9@9"):
                assert reason(await status_of(stream(stream_request("a", model=name)))) == "MODEL_NOT_FOUND"
            status = await status_of(stream(stream_request("a", model="tags")))
            assert (status.code, reason(status)) == (Code.FAILED_PRECONDITION, "TASK_UNSUPPORTED")
            assert PreconditionFailure.DESCRIPTOR.full_name in {detail.TypeName() for detail in status.details}
            info = errors.error_info(status)
            assert info is not None
            assert info.metadata["tasks"] == "TOKENIZE"
            for name in ("toy", "toy@9", "toy@10"):
                async for _ in stream(stream_request("a", 2, model=name)):
                    pass
            assert len(worker.started) == 3


async def test_before_any_worker_has_come(serve_gateway: ServeGateway) -> None:
    async with serve_gateway() as service:
        for name in ("", "toy"):
            status = await status_of(service.inference.GenerateStream(stream_request("a", model=name)))
            assert (status.code, reason(status)) == (Code.UNAVAILABLE, "NO_WORKER")
            assert errors.is_retryable(status)
