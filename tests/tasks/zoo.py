"""One tiny checkpoint of every architecture, with random weights and one vocabulary: directories as they are served."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from google.protobuf.message import Message
from xlmstream.v1.common_pb2 import Task
from xlmstream.v1.tensor_pb2 import DATA_TYPE_FLOAT32, Tensor
from xlmstream_server.broker import Taken
from xlmstream_server.broker.v1.messages_pb2 import Envelope, Event
from xlmstream_worker import xlm
from xlmstream_worker.config import DeviceConfig, ModelConfig
from xlmstream_worker.encoder import EncoderConfig, EncoderEngine
from xlmstream_worker.models import LoadedModel, load_model
from xlmstream_worker.rows import Row
from xlmstream_worker.tasks.encoder_tasks import ENCODER_TASKS
from xlmstream_worker.tasks.encoding import Encoding
from xlmstream_worker.xlm import XLMConfig

SPECIALS = ["<s>", "</s>", "<pad>", "<unk>", *(f"<special{n}>" for n in range(10))]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'\"()-éü"
MERGES = [
    "t h", "th e</w>", "a n", "an d</w>", "i n", "in g</w>", "e r</w>", "o n</w>", "p a", "r i", "pa ri", "pari s</w>",
    "i s</w>", "c i", "t y</w>", "ci ty</w>", "b i", "bi g</w>", "l i", "li v", "liv e", "live s</w>", "w h",
    "wh o</w>", "n i", "ni c", "nic e</w>", "o f</w>", "f r", "fr an", "fran c", "franc e</w>",
]  # fmt: skip
LANGUAGES = {"en": 0, "fr": 1}
POSITIONS = 128

TEXT_MODELS: dict[str, tuple[str, dict[str, object]]] = {
    "masked": ("XLMWithLMHeadModel", {}),
    "original": ("XLMWithLMHeadModel", {}),
    "causal": ("XLMWithLMHeadModel", {"causal": True}),
    "base": ("XLMModel", {}),
    "single": ("XLMForSequenceClassification", {"id2label": {0: "sad", 1: "so so", 2: "glad"}}),
    "multi": (
        "XLMForSequenceClassification",
        {"num_labels": 3, "problem_type": "multi_label_classification", "summary_type": "mean"},
    ),
    "value": ("XLMForSequenceClassification", {"num_labels": 1, "problem_type": "regression", "summary_type": "last"}),
    "tags": ("XLMForTokenClassification", {"id2label": {0: "O", 1: "B-LOC", 2: "I-LOC", 3: "B-PER", 4: "I-PER"}}),
    "choice": ("XLMForMultipleChoice", {"num_labels": 1}),
    "answer": ("XLMForQuestionAnsweringSimple", {}),
    "beam": ("XLMForQuestionAnswering", {}),
}


def make(name: str, directory: Path) -> Path:
    """Write the model `name` of `TEXT_MODELS`."""
    architecture, settings = TEXT_MODELS[name]
    path = directory / name
    path.mkdir()
    pieces = [*SPECIALS, *LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    pieces += [piece for merge in MERGES if (piece := merge.replace(" ", "")) not in pieces]
    (path / "vocab.json").write_text(json.dumps({piece: place for place, piece in enumerate(pieces)}))
    (path / "merges.txt").write_text("".join(f"{merge} 1\n" for merge in MERGES))
    (path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": POSITIONS}))
    config = XLMConfig(
        vocab_size=len(pieces),
        emb_dim=32,
        n_layers=3,
        n_heads=4,
        max_position_embeddings=POSITIONS,
        n_langs=2,
        lang2id=LANGUAGES,
        id2lang={str(index): code for code, index in LANGUAGES.items()},
        init_std=0.25,  # large enough that inputs matter
        embed_init_std=0.4,
        **settings,
    )
    torch.manual_seed(sum(map(ord, name)))
    model = getattr(xlm, architecture)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1 and not parameter.any():
                parameter.normal_(0, 0.1)  # biases of heads that a checkpoint without them would not have
    model.save_pretrained(path)
    if name == "original":
        (path / "xlmstream.json").write_text(json.dumps({"input_format": "original"}))
    return path


def load(path: Path) -> LoadedModel:
    return load_model(ModelConfig(path, path.name), DeviceConfig())


def row(request: Message, task: Task.ValueType, name: str = "x", alone: bool = False) -> Row:
    envelope = Envelope(
        execution_id=name,
        model="toy@1",
        task=task,
        request=request.SerializeToString(),
        accepted_ms=1_000,
        deadline_ms=601_000,
    )
    return Row(Taken(envelope=envelope, journal=(), attempt=1, alone=alone, taken_ms=1_250), key=f"{name}#0")


def serve(model: LoadedModel, asked: Sequence[tuple[Task.ValueType, Message]], batch_tokens: int = 2048) -> list[Event]:
    """The terminal events of executions that run together."""
    engine = EncoderEngine(model.network, EncoderConfig(batch_tokens))
    encodings = {}
    for number, (task, request) in enumerate(asked):
        taken = row(request, task, f"x{number}")
        items = ENCODER_TASKS[task].prepare(taken.taken.envelope.request, model)
        encodings[taken.key] = Encoding(taken, ENCODER_TASKS[task], items, model, "w1", 0.001)
    for encoding in encodings.values():
        engine.add(encoding.begin())
    while not engine.idle:
        step = engine.step()
        for output in step.outputs:
            encodings[output.key].push(output, step.batch_size)
    return [encoding.event() for encoding in encodings.values()]


def answer(model: LoadedModel, task: Task.ValueType, request: Message) -> Message:
    """The response to one request that runs alone."""
    (event,) = serve(model, [(task, request)])
    response = getattr(event, str(event.WhichOneof("kind")))
    assert isinstance(response, Message)
    return response


def assert_close(ours: Message, expected: Message) -> None:
    """Equal messages but for timing, and numbers within 1e-5."""
    assert type(ours) is type(expected)
    if isinstance(ours, Tensor) and isinstance(expected, Tensor):
        assert (ours.dtype, ours.shape) == (expected.dtype, expected.shape)
        assert ours.dtype == DATA_TYPE_FLOAT32
        got, wanted = (np.frombuffer(tensor.data, "<f4") for tensor in (ours, expected))
        np.testing.assert_allclose(got, wanted, atol=1e-5, rtol=1e-5)
        return
    fields = {field.name: value for field, value in ours.ListFields() if field.name != "timing"}
    assert list(fields) == [field.name for field, _ in expected.ListFields() if field.name != "timing"]
    for name, value in fields.items():
        many = not isinstance(value, str | bytes | int | float | Message)
        other = getattr(expected, name)
        pairs = zip(value, other, strict=True) if many else [(value, other)]
        for one, its in pairs:
            if isinstance(one, Message):
                assert_close(one, its)
            elif isinstance(one, float):
                assert one == pytest.approx(its, abs=1e-5, rel=1e-5)
            else:
                assert one == its, name
