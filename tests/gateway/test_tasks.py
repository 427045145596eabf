"""The tasks that do not generate, as unary rpcs: gateway, broker, scripted worker."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from gateway.conftest import ServeGateway, Service
from gateway.helpers import details, fields, reason, status_of
from gateway.scripted_worker import ScriptedWorker, card
from google.protobuf.json_format import ParseDict
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import PreconditionFailure
from xlmstream.v1.classification_pb2 import ChooseMultipleRequest, ClassifySequenceRequest, ClassifyTokensRequest
from xlmstream.v1.common_pb2 import Task
from xlmstream.v1.embedding_pb2 import EmbedRequest
from xlmstream.v1.fill_mask_pb2 import FillMaskRequest
from xlmstream.v1.question_answering_pb2 import AnswerQuestionRequest
from xlmstream.v1.scoring_pb2 import ScoreRequest
from xlmstream_server import errors
from xlmstream_server.config import GatewayConfig


def text(value: str) -> dict[str, str]:
    return {"text": value}


# rpc: request, an input made of a text, what shows in the result which input it was.
CASES: dict[str, tuple[Any, Any, Any]] = {
    "Embed": (EmbedRequest, text, lambda result, given: result.embedding.data[0] == len(given)),
    "FillMask": (FillMaskRequest, text, lambda result, given: result.text == f"filled {given}"),
    "ClassifySequence": (
        ClassifySequenceRequest,
        lambda value: {"text": text(value), "text_pair": text("pair")},
        lambda result, given: result.labels[0].label == f"{given}/pair",
    ),
    "ClassifyTokens": (ClassifyTokensRequest, text, lambda result, given: result.entities[0].text == given),
    "AnswerQuestion": (
        AnswerQuestionRequest,
        lambda value: {"question": text(value), "context": text("there")},
        lambda result, given: result.answers[0].text == f"{given}/there",
    ),
    "ChooseMultiple": (
        ChooseMultipleRequest,
        lambda value: {"prompt": text(value), "choices": [text("a"), text("b")]},
        lambda result, given: (result.choices[0].index, result.choices[0].logit) == (1, len(given)),
    ),
    "Score": (ScoreRequest, text, lambda result, given: result.scored_tokens == len(given)),
}


def request_for(rpc: str, *texts: str, **parameters: Any) -> Any:
    kind, given, _ = CASES[rpc]
    content: dict[str, Any] = {"inputs": [given(value) for value in texts]}
    return ParseDict(content | ({"parameters": parameters} if parameters else {}), kind())


async def call(service: Service, rpc: str, request: Any) -> Any:
    return await getattr(service.inference, rpc)(request)


@pytest.mark.parametrize("rpc", CASES)
async def test_many_inputs_are_split_answered_in_order_and_fail_alone(
    rpc: str, service: Service, worker: ScriptedWorker
) -> None:
    texts = ["t" * (1 + i % 9) for i in range(150)]
    texts[70] = "bad one"
    texts[3] = " "
    response = await call(service, rpc, request_for(rpc, *texts))
    assert len(response.outputs) == 150
    for position, (output, given) in enumerate(zip(response.outputs, texts, strict=True)):
        if position in (3, 70):
            [field] = fields(output.error)
            assert field.startswith(f"inputs[{position}].")
        else:
            assert CASES[rpc][2](output.result, given), position
            assert output.result.usage.prompt_tokens == len(given)
    assert len(worker.sizes) >= 3
    assert sum(worker.sizes) == 149


@pytest.mark.parametrize("rpc", CASES)
async def test_a_poisoned_input_is_found_and_fails_alone(rpc: str, service: Service, worker: ScriptedWorker) -> None:
    response = await call(service, rpc, request_for(rpc, "a", "poison", "ccc"))
    assert [output.WhichOneof("outcome") for output in response.outputs] == ["result", "error", "result"]
    assert reason(response.outputs[1].error) == "POISONED_INPUT"
    assert CASES[rpc][2](response.outputs[2].result, "ccc")
    assert sorted(worker.sizes) == [1, 1, 1, 3]


@pytest.mark.parametrize(
    ("rpc", "parameters", "field"),
    [
        ("Embed", {"layer": 3}, "parameters.layer"),
        ("Embed", {"dimensions": 5}, "parameters.dimensions"),
        ("Embed", {"dimensions": 0}, "parameters.dimensions"),
        ("Embed", {"pooling": 9}, "parameters.pooling"),
        ("Embed", {"dtype": 9}, "parameters.dtype"),
        ("FillMask", {"top_k": 0}, "parameters.top_k"),
        ("FillMask", {"top_k": 2, "targets": ["one"]}, "parameters.top_k"),
        ("FillMask", {"targets": ["one", " "]}, "parameters.targets[1]"),
        ("FillMask", {"targets": ["w"] * 1001}, "parameters.targets"),
        ("ClassifySequence", {"labels": ["yes", "maybe"]}, "parameters.labels[1]"),
        ("ClassifySequence", {"labels": ["yes"] * 1025}, "parameters.labels"),
        ("ClassifySequence", {"top_k": 0}, "parameters.top_k"),
        ("ClassifySequence", {"function": 9}, "parameters.function"),
        ("ClassifyTokens", {"ignore_labels": ["PER", "LOC"]}, "parameters.ignore_labels[1]"),
        ("ClassifyTokens", {"ignore_labels": ["PER"] * 1025}, "parameters.ignore_labels"),
        ("ClassifyTokens", {"aggregation": 9}, "parameters.aggregation"),
        ("AnswerQuestion", {"top_k": 21}, "parameters.top_k"),
        ("AnswerQuestion", {"max_answer_tokens": 0}, "parameters.max_answer_tokens"),
        ("AnswerQuestion", {"window_tokens": 513}, "parameters.window_tokens"),
        ("AnswerQuestion", {"window_tokens": 100, "stride_tokens": 101}, "parameters.stride_tokens"),
        ("AnswerQuestion", {"max_question_tokens": 257}, "parameters.max_question_tokens"),
    ],
)
async def test_a_wrong_parameter_fails_the_call_before_it_is_queued(
    rpc: str, parameters: dict[str, Any], field: str, service: Service, worker: ScriptedWorker
) -> None:
    status = await status_of(getattr(service.inference, rpc)(request_for(rpc, "a", **parameters)))
    assert (status.code, fields(status)) == (Code.INVALID_ARGUMENT, [field])
    assert not worker.started


@pytest.mark.parametrize(
    ("rpc", "given", "field"),
    [
        ("Embed", {}, "inputs[1]"),
        ("Embed", {"text": "x" * 2000}, "inputs[1].text"),
        ("Embed", {"text": "a", "language": "xx"}, "inputs[1].language"),
        ("Embed", {"tokenIds": {"ids": [5000]}}, "inputs[1].token_ids.ids[0]"),
        ("ClassifySequence", {"textPair": {"text": "b"}}, "inputs[1].text"),
        ("ClassifySequence", {"text": {"text": "a"}, "textPair": {"text": " "}}, "inputs[1].text_pair.text"),
        ("ClassifySequence", {"text": {"text": "a"}, "textPair": {"tokenIds": {"ids": [1]}}}, "inputs[1].text_pair"),
        ("AnswerQuestion", {"question": {"text": ""}, "context": {"text": "c"}}, "inputs[1].question.text"),
        ("AnswerQuestion", {"question": {"text": "q"}}, "inputs[1].context.text"),
        ("AnswerQuestion", {"question": {"tokenIds": {"ids": [1]}}, "context": {"text": "c"}}, "inputs[1].question"),
        ("ChooseMultiple", {"prompt": {"text": "p"}}, "inputs[1].choices"),
        ("ChooseMultiple", {"prompt": {"text": "p"}, "choices": [{"text": "a"}] * 65}, "inputs[1].choices"),
        ("ChooseMultiple", {"prompt": {"text": "p"}, "choices": [{"text": "a"}, {}]}, "inputs[1].choices[1]"),
        (
            "ChooseMultiple",
            {"prompt": {"text": "p"}, "choices": [{"tokenIds": {"ids": [1]}}]},
            "inputs[1].choices[0]",
        ),
    ],
)
async def test_a_wrong_input_fails_alone_and_is_never_queued(
    rpc: str,
    given: dict[str, Any],
    field: str,
    serve_gateway: ServeGateway,
    quick_config: GatewayConfig,
    worker: ScriptedWorker,
) -> None:
    request = request_for(rpc, "good")
    ParseDict(given, request.inputs.add())
    request.inputs.append(request.inputs[0])
    config = replace(quick_config, limits=replace(quick_config.limits, max_text_bytes=1000))
    async with serve_gateway(config) as service:
        response = await call(service, rpc, request)
    assert [output.WhichOneof("outcome") for output in response.outputs] == ["result", "error", "result"]
    assert fields(response.outputs[1].error)[0].startswith(field)
    assert worker.sizes == [2]


@pytest.mark.parametrize("rpc", CASES)
async def test_a_task_that_the_model_lacks_names_those_it_has(
    rpc: str, broker_url: str, serve_gateway: ServeGateway
) -> None:
    with ScriptedWorker(broker_url, models=[card(tasks=[Task.TASK_TOKENIZE])]):
        async with serve_gateway() as service:
            status = await status_of(getattr(service.inference, rpc)(request_for(rpc, "a")))
    assert (status.code, reason(status)) == (Code.FAILED_PRECONDITION, "TASK_UNSUPPORTED")
    info = errors.error_info(status)
    assert info is not None
    assert info.metadata["tasks"] == "TOKENIZE"
    assert details(status, PreconditionFailure)


async def test_too_many_inputs_for_one_call(service: Service) -> None:
    status = await status_of(service.inference.Embed(request_for("Embed", *["a"] * 257)))
    assert fields(status) == ["inputs"]


async def test_work_larger_than_the_queue_waits_for_room(
    serve_gateway: ServeGateway, quick_config: GatewayConfig, worker: ScriptedWorker
) -> None:
    worker.takes = False
    config = replace(quick_config, queue=replace(quick_config.queue, queue_max_requests=1))
    async with serve_gateway(config) as service:
        running = asyncio.ensure_future(service.inference.Embed(request_for("Embed", *["abc"] * 200)))
        await asyncio.to_thread(worker.wait, lambda: service.gateway.relay.open_executions == 1)
        worker.takes = True
        response = await running
    assert all(output.result.embedding.data[0] == 3 for output in response.outputs)
    assert sum(worker.sizes) == 200
