"""Encoder tasks on a worker's queue: the real broker, several models in one process, tasks side by side."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from tasks.conftest import Zoo
from tasks.zoo import answer, assert_close, load
from xlmstream.v1 import common_pb2 as common
from xlmstream.v1.classification_pb2 import (
    ChooseMultipleInput,
    ChooseMultipleRequest,
    ClassifySequenceInput,
    ClassifySequenceRequest,
    ClassifyTokensRequest,
)
from xlmstream.v1.common_pb2 import Task, TextInput
from xlmstream.v1.embedding_pb2 import EmbedParameters, EmbedRequest
from xlmstream.v1.fill_mask_pb2 import FillMaskRequest
from xlmstream.v1.generation_pb2 import GenerationParameters
from xlmstream.v1.inference_pb2 import GenerateStreamRequest, TokenizeRequest
from xlmstream.v1.question_answering_pb2 import AnswerQuestionInput, AnswerQuestionRequest
from xlmstream.v1.scoring_pb2 import ScoreRequest
from xlmstream_server.broker import GatewayBroker, WorkerBroker, is_terminal
from xlmstream_server.broker.v1.messages_pb2 import Envelope, Event
from xlmstream_worker.decoder import DecoderEngine
from xlmstream_worker.encoder import EncoderConfig, EncoderEngine
from xlmstream_worker.sequences import EngineConfig
from xlmstream_worker.serving import Engines, Serving

MODELS = ["masked", "causal", "single", "tags", "choice", "answer", "beam"]
TEXTS = ["Paris is a big city of France.", "Who lives in the city?", "nice", "the an and is of " * 6]
BATCH_TOKENS = 64


@pytest.fixture
def served(zoo: Zoo, broker_url: str) -> Iterator[None]:
    """One worker process's servings of all models."""
    with ExitStack() as stack:
        for place, name in enumerate(MODELS):
            model = zoo(name)
            decoder = DecoderEngine(model.network, EngineConfig(max_slots=4)) if name in ("causal", "masked") else None
            broker = WorkerBroker.connect(
                broker_url, worker_id=f"w-{place}", models=[model.full_name], lease_s=20, allow_volatile=True
            )
            encoder = EncoderEngine(model.network, EncoderConfig(BATCH_TOKENS))
            serving = Serving(model, Engines(decoder, encoder), broker, alive=lambda: None, stall_limit_s=30)
            serving.start()
            stack.callback(serving.join)
            stack.callback(serving.drain, 0.0)
        yield


async def execute(url: str, asked: Sequence[tuple[str, Task.ValueType, Message]]) -> list[Event]:
    """The terminal events of executions that wait and run at the same time."""
    async with await GatewayBroker.connect(url, allow_volatile=True) as gateway:
        names = []
        for model, task, request in asked:
            now_ms = gateway.now_ms()
            envelope = Envelope(
                execution_id=gateway.new_id(),
                tenant="default",
                model=f"{model}@1",
                task=task,
                request=request.SerializeToString(),
                accepted_ms=now_ms,
                deadline_ms=now_ms + 60_000,
                cost_tokens=20,
                journaled=True,
            )
            await gateway.submit(envelope)
            names.append(envelope.execution_id)
        ended: dict[str, Event] = {}

        async def look(name: str) -> None:
            events = (await gateway.follow(name)).events
            if events and is_terminal(events[-1]):
                ended[name] = events[-1]

        for name in names:
            await look(name)
        frames = gateway.frames()
        while len(ended) < len(names):
            arrival = await asyncio.wait_for(anext(frames), 120)
            for item in arrival.frame.items:
                if item.terminal:
                    await look(item.execution_id)
        return [ended[name] for name in names]


def texts(count: int) -> list[TextInput]:
    return [TextInput(text=TEXTS[number % len(TEXTS)]) for number in range(count)]


def question(context: str) -> AnswerQuestionInput:
    return AnswerQuestionInput(question=TextInput(text="who is nice?"), context=TextInput(text=context))


REQUESTS: list[tuple[str, Task.ValueType, Message]] = [
    ("masked", common.TASK_EMBED, EmbedRequest(inputs=texts(30))),
    ("masked", common.TASK_FILL_MASK, FillMaskRequest(inputs=[TextInput(text="the <special1> is big")])),
    ("masked", common.TASK_SCORE, ScoreRequest(inputs=texts(3))),
    ("causal", common.TASK_SCORE, ScoreRequest(inputs=texts(4))),
    ("causal", common.TASK_EMBED, EmbedRequest(inputs=texts(2))),
    ("single", common.TASK_CLASSIFY_SEQUENCE, ClassifySequenceRequest(inputs=[
        ClassifySequenceInput(text=one, text_pair=one) for one in texts(9)])),
    ("tags", common.TASK_CLASSIFY_TOKENS, ClassifyTokensRequest(inputs=texts(5))),
    ("choice", common.TASK_CHOOSE_MULTIPLE, ChooseMultipleRequest(inputs=[
        ChooseMultipleInput(prompt=one, choices=texts(3)) for one in texts(4)])),
    ("answer", common.TASK_ANSWER_QUESTION, AnswerQuestionRequest(inputs=[question(" ".join(TEXTS) * 3)])),
    ("beam", common.TASK_ANSWER_QUESTION, AnswerQuestionRequest(inputs=[question(" ".join(TEXTS))])),
    ("beam", common.TASK_TOKENIZE, TokenizeRequest(inputs=texts(1))),
]  # fmt: skip


def reason(status: Status) -> str:
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    return str(info.reason)


@pytest.mark.usefixtures("served")
async def test_every_task_of_several_models_at_once(zoo: Zoo, broker_url: str) -> None:
    events = await execute(broker_url, [*REQUESTS, *REQUESTS])
    for (name, task, request), event in zip([*REQUESTS, *REQUESTS], events, strict=True):
        kind = event.WhichOneof("kind")
        assert kind != "failed", event
        response = getattr(event, str(kind))
        if task == common.TASK_TOKENIZE:
            continue
        assert [output.WhichOneof("outcome") for output in response.outputs] == ["result"] * len(request.inputs)
        for output, expected in zip(response.outputs, answer(zoo(name), task, request).outputs, strict=True):
            assert_close(output.result, expected.result)
            assert output.result.timing.worker_id.startswith("w-")
            assert output.result.timing.total_us >= output.result.timing.compute_us > 0


@pytest.mark.usefixtures("served")
async def test_generation_and_encoding_share_a_model(broker_url: str) -> None:
    generate = GenerateStreamRequest(
        input=TextInput(text="the big"), parameters=GenerationParameters(max_new_tokens=8, ignore_eos=True)
    )
    asked = [("causal", common.TASK_GENERATE, generate), ("causal", common.TASK_EMBED, EmbedRequest(inputs=texts(40)))]
    *streams, embedded = await execute(broker_url, [asked[0]] * 6 + [asked[1]])
    assert all(event.finished.usage.completion_tokens == 8 for event in streams)
    assert len(embedded.embedded.outputs) == 40


@pytest.mark.usefixtures("served")
async def test_bad_inputs_fail_by_themselves_and_bad_parameters_fail_the_request(broker_url: str) -> None:
    mixed = EmbedRequest(
        inputs=[
            TextInput(text="the city"),
            TextInput(text="the city", language="xx"),
            TextInput(text="a" * 500),
            TextInput(text="\u200b"),
            TextInput(token_ids=common.TokenIds(ids=[5, 9999])),
            TextInput(text="the city"),
        ]
    )
    only_bad = EmbedRequest(inputs=[mixed.inputs[1]])
    wrong = EmbedRequest(inputs=texts(1), parameters=EmbedParameters(layer=4, dimensions=33))
    first, second, third = await execute(
        broker_url, [("masked", common.TASK_EMBED, request) for request in (mixed, only_bad, wrong)]
    )
    outputs = first.embedded.outputs
    assert [output.WhichOneof("outcome") for output in outputs] == ["result", *["error"] * 4, "result"]
    assert outputs[0].result.embedding == outputs[5].result.embedding
    assert [reason(output.error) for output in outputs[1:5]] == [
        "INVALID_INPUT", "INPUT_TOO_LONG", "INVALID_INPUT", "INVALID_INPUT",
    ]  # fmt: skip
    assert "inputs[1].language" in outputs[1].error.message
    assert "inputs[4].token_ids.ids[1]" in outputs[4].error.message
    assert reason(second.embedded.outputs[0].error) == "INVALID_INPUT"
    assert reason(third.failed) == "INVALID_INPUT"
    assert "parameters.layer" in third.failed.message


@pytest.mark.usefixtures("served")
async def test_a_task_the_model_lacks_is_refused_naming_those_it_has(broker_url: str) -> None:
    asked = [
        ("tags", common.TASK_FILL_MASK, FillMaskRequest(inputs=texts(1))),
        ("causal", common.TASK_FILL_MASK, FillMaskRequest(inputs=texts(1))),
        ("tags", common.TASK_GENERATE, GenerateStreamRequest(input=texts(1)[0])),
    ]
    events = await execute(broker_url, asked)
    assert [reason(event.failed) for event in events] == ["TASK_UNSUPPORTED"] * 3
    assert "CLASSIFY_TOKENS, TOKENIZE, DETOKENIZE, EMBED" in events[0].failed.message


def test_a_checkpoint_without_its_head_serves_what_needs_none(
    directory_of: Callable[[str], Path], tmp_path: Path
) -> None:
    path = shutil.copytree(directory_of("base"), tmp_path / "bare")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"architectures": ["XLMForTokenClassification"]}))
    card = load(path).card
    assert list(card.tasks) == [common.TASK_TOKENIZE, common.TASK_DETOKENIZE, common.TASK_EMBED]
    assert not card.labels


def test_one_worker_process_serves_several_models(
    zoo: Zoo, directory_of: Callable[[str], Path], broker_url: str, tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    names = ["masked", "causal", "tags"]
    command = [sys.executable, "-m", "xlmstream_worker", "--broker", broker_url, "--threads", "1", "--allow-volatile"]
    command += ["--ready-file", str(ready), "--tokenizers", "2", *(str(directory_of(name)) for name in names)]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as worker:
        try:
            asked = [one for one in REQUESTS if one[0] in names]
            events = asyncio.run(execute(broker_url, asked))
            for (name, task, request), event in zip(asked, events, strict=True):
                response = getattr(event, str(event.WhichOneof("kind")))
                for output, expected in zip(response.outputs, answer(zoo(name), task, request).outputs, strict=True):
                    assert_close(output.result, expected.result)
            worker.terminate()
            assert worker.wait(30) == 0, (tmp_path / "log").read_text()
        finally:
            worker.kill()
    assert not ready.exists()
