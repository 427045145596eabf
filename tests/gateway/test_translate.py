"""Translate, TranslateStream and translate items: checked by the gateway, run as generations are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest
from gateway.conftest import ServeGateway, Service
from gateway.helpers import Read, fields, reason, status_of
from gateway.infer import Infer
from gateway.scripted_worker import ScriptedWorker, text_of, translated_ids, translator_card
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status
from xlmstream.v1 import inference_pb2 as pb
from xlmstream.v1.common_pb2 import FINISH_REASON_LENGTH, RequestOptions, TextInput
from xlmstream.v1.generation_pb2 import GenerationParameters
from xlmstream.v1.models_pb2 import DECODING_MODE_NEXT_TOKEN
from xlmstream.v1.translation_pb2 import TranslateRequest, TranslateStreamRequest


@pytest.fixture
def worker(broker_url: str) -> Iterator[ScriptedWorker]:
    with ScriptedWorker(broker_url, models=[translator_card()]) as worker:
        yield worker


def french(text: str) -> TextInput:
    return TextInput(text=text, language="fr")


def stream_request(text: str, tokens: int = 10, target: str = "en", **options: object) -> TranslateStreamRequest:
    parameters = GenerationParameters(max_new_tokens=tokens)
    return TranslateStreamRequest(
        options=RequestOptions(**options), input=french(text), target_language=target, parameters=parameters
    )


async def test_a_stream_brings_every_token_once(service: Service) -> None:
    call = service.inference.TranslateStream(stream_request("un deux", 10))
    read = await Read().all(call)
    expected = translated_ids("un deux", "fr", "en", 10)
    assert (read.ids, read.text, read.finished) == (expected, text_of(expected), True)
    assert dict(await call.initial_metadata())["x-execution-id"]


async def test_a_stream_is_resumed_and_joined_by_its_key(service: Service, worker: ScriptedWorker) -> None:
    request = stream_request("hold:3 un", 9, request_id="k")
    first = service.inference.TranslateStream(request)
    second = service.inference.TranslateStream(request)
    read = await Read().until(first, 3)
    other = await Read().until(second, 3)
    worker.release("hold:3 un")
    resumed = service.inference.ResumeStream(
        pb.ResumeStreamRequest(resume_token=read.resume_token, next_event=read.next_event)
    )
    whole = [await each.all(call) for each, call in ((read, resumed), (other, second))]
    assert [one.ids for one in whole] == [translated_ids("hold:3 un", "fr", "en", 9)] * 2
    changed = stream_request("hold:3 un", 9, target="de", request_id="k")
    assert reason(await status_of(service.inference.TranslateStream(changed))) == "REQUEST_ID_REUSED"


async def test_translate_answers_each_text_in_order_and_a_bad_one_harms_no_other(service: Service) -> None:
    inputs = [french("a"), french(" "), TextInput(text="b"), TextInput(text="c", language="en"), french("long d")]
    inputs += [TextInput(text="e", language="de"), TextInput(text="f", language="xx")]
    parameters = GenerationParameters(max_new_tokens=4, num_beams=2)
    response = await service.inference.Translate(
        TranslateRequest(inputs=inputs, target_language="en", parameters=parameters)
    )
    outcomes = [output.WhichOneof("outcome") for output in response.outputs]
    assert outcomes == ["result", "error", "error", "error", "error", "result", "error"]
    for position, text, language in ((0, "a", "fr"), (5, "e", "de")):
        [candidate] = response.outputs[position].result.candidates
        assert list(candidate.token_ids) == translated_ids(text, language, "en", 4)
        assert (candidate.finish_reason, candidate.score) == (FINISH_REASON_LENGTH, -0.5)
    wrong = {position: response.outputs[position].error for position in (1, 2, 3, 4, 6)}
    assert [fields(status) for status in wrong.values()] == [
        ["inputs[1].text"],
        ["inputs[2].language"],
        ["inputs[3].language"],
        ["inputs[4].text"],
        ["inputs[6].language"],
    ]
    assert "must be set, to translate from; supported: en, fr, de" in described(wrong[2])
    assert "en is target_language as well: there is nothing to translate" in described(wrong[3])
    assert reason(wrong[4]) == "INPUT_TOO_LONG"
    assert "supported: en, fr, de" in described(wrong[6])


def described(status: Status) -> str:
    bad = BadRequest()
    assert any(detail.Unpack(bad) for detail in status.details)
    return bad.field_violations[0].description


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        (lambda r: setattr(r, "target_language", ""), "target_language", "must be set; supported: en, fr, de"),
        (lambda r: setattr(r, "target_language", "xx"), "target_language", "'xx' is not supported; supported: en, fr"),
        (lambda r: setattr(r, "target_language", "fr"), "input.language", "there is nothing to translate"),
        (lambda r: r.input.ClearField("language"), "input.language", "must be set"),
        (lambda r: r.input.Clear(), "input", "exactly one of text and token_ids"),
        (lambda r: setattr(r.parameters, "echo", True), "parameters.echo", "must be unset"),
        (
            lambda r: setattr(r.parameters, "decoding_mode", DECODING_MODE_NEXT_TOKEN),
            "parameters.decoding_mode",
            "must be unset",
        ),
        (lambda r: setattr(r.parameters, "max_new_tokens", 0), "parameters.max_new_tokens", "0 is out of range"),
        (lambda r: setattr(r.options, "priority", 17), "options.priority", "17 is not one of"),
    ],
)
async def test_what_is_refused(
    service: Service, worker: ScriptedWorker, change: Callable[[TranslateStreamRequest], object], field: str, says: str
) -> None:
    request = stream_request("un", 5)
    change(request)
    status = await status_of(service.inference.TranslateStream(request))
    assert (status.code, reason(status), fields(status)) == (Code.INVALID_ARGUMENT, "INVALID_INPUT", [field])
    assert says in described(status)
    assert not worker.started


async def test_min_new_tokens_needs_no_limit_beside_it(service: Service) -> None:
    request = TranslateStreamRequest(
        input=french("un"), target_language="en", parameters=GenerationParameters(min_new_tokens=100)
    )
    assert (await Read().all(service.inference.TranslateStream(request))).finished


async def test_only_the_directions_of_a_model(serve_gateway: ServeGateway, broker_url: str) -> None:
    models = [translator_card(("fr", "en"), ("en", "de"))]
    with ScriptedWorker(broker_url, models=models):
        async with serve_gateway() as service:
            assert (await Read().all(service.inference.TranslateStream(stream_request("un", 2)))).finished
            status = await status_of(service.inference.TranslateStream(stream_request("un", target="de")))
        assert fields(status) == ["input.language"]
        assert described(status) == "fr-de is not translated; supported: fr-en, en-de"


async def test_a_model_that_does_not_translate(serve_gateway: ServeGateway, broker_url: str) -> None:
    with ScriptedWorker(broker_url):
        async with serve_gateway() as service:
            status = await status_of(service.inference.TranslateStream(stream_request("un")))
        assert (status.code, reason(status)) == (Code.FAILED_PRECONDITION, "TASK_UNSUPPORTED")


async def test_cancel_ends_a_translation(service: Service, worker: ScriptedWorker) -> None:
    call = service.inference.TranslateStream(stream_request("hold:2 un", 9, request_id="k"))
    await Read().until(call, 2)
    cancelled = await service.inference.CancelRequest(pb.CancelRequestRequest(request_id="k"))
    assert cancelled.cancelled
    assert (await status_of(call)).code == Code.CANCELLED
    await asyncio.to_thread(worker.wait, lambda: not worker.rows)


async def test_items_of_a_stream(service: Service) -> None:
    infer = await Infer(service).open()
    parameters = GenerationParameters(max_new_tokens=6)

    def item(identity: int, text: str, target: str, *, deltas: bool = False) -> pb.InferItem:
        content = pb.TranslateItem(input=french(text), target_language=target, parameters=parameters, deltas=deltas)
        return pb.InferItem(correlation_id=identity, translate=content)

    await infer.items(item(1, "un", "en"), item(2, "un", "de", deltas=True), item(3, "un", "xx"), item(4, "un", "fr"))
    await infer.finish()
    for identity, target in ((1, "en"), (2, "de")):
        [candidate] = infer.outputs[identity].translate.candidates
        assert list(candidate.token_ids) == translated_ids("un", "fr", target, 6)
    assert infer.texts == {2: infer.outputs[2].translate.candidates[0].text}
    assert fields(infer.outputs[3].error) == ["translate.target_language"]
    assert fields(infer.outputs[4].error) == ["translate.input.language"]


async def test_an_item_sent_again_over_another_stream_joins_the_first(service: Service, worker: ScriptedWorker) -> None:
    content = pb.TranslateItem(
        input=french("hold:2 un"), target_language="en", parameters=GenerationParameters(max_new_tokens=5)
    )
    item = pb.InferItem(correlation_id=7, translate=content)
    first = await Infer(service, request_id="key", disconnect_policy=2).open()
    await first.items(item)
    await asyncio.to_thread(worker.wait, lambda: bool(worker.started))
    first.call.cancel()
    second = await Infer(service, request_id="key", disconnect_policy=2).open()
    await second.items(item)
    worker.release("hold:2 un")
    await second.finish()
    [candidate] = second.outputs[7].translate.candidates
    assert list(candidate.token_ids) == translated_ids("hold:2 un", "fr", "en", 5)
    assert len(worker.started) == 1
