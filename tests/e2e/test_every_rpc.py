"""Every rpc of the whole service, from Python and from Node.js: real processes, a tiny model for each head."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from e2e.zoo_service import zoo_service
from tasks.zoo import make
from xlmstream import AsyncClient, Choices, Client, InvalidInput, Question, TaskUnsupported, TextPair
from xlmstream.v1.common_pb2 import Task
from xlmstream_worker.xlm import XLMEncoderDecoder

# The first test waits for training, for processes that import torch, and for nine models: minutes on a busy machine.
pytestmark = pytest.mark.timeout(900)

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE = REPOSITORY / "examples" / "node"
HEADS = ("masked", "causal", "single", "tags", "choice", "answer", "beam")
TEXTS = ["paris is big", "who lives in the city of nice", "in the beginning"] * 30
QUESTION = Question("who lives in paris", "the big city of paris is in france and nice is big")
CHOICES = Choices("paris is", ["big", "in france"])


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, translator_directory: Path) -> Iterator[str]:
    home = tmp_path_factory.mktemp("every-rpc")
    models = [f"{name}={make(name, home)}" for name in HEADS]
    with zoo_service(home, [*models, f"translator={translator_directory}"]) as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address, timeout_s=60) as client:
        yield client


def plain(result: Any) -> Any:
    """What two ways to the same result must agree on."""
    if hasattr(result, "tensor"):
        return result.tensor.tolist()
    return {name: getattr(result, name) for name in result.__dataclass_fields__ if name != "timing"}


CASES: list[tuple[str, str, list[Any], dict[str, Any]]] = [
    ("embed", "masked", TEXTS, {"pooling": "first", "normalize": True}),
    ("score", "causal", TEXTS, {"include_tokens": True}),
    ("score", "masked", TEXTS[:6], {}),
    ("classify", "single", [*TEXTS, TextPair("paris", "nice")], {}),
    ("tag", "tags", TEXTS, {"aggregation": "max"}),
    ("choose", "choice", [CHOICES] * 5, {}),
    ("answer", "answer", [QUESTION] * 5, {"top_k": 3}),
    ("answer", "beam", [QUESTION] * 5, {}),
]


@pytest.mark.parametrize(("verb", "model", "inputs", "keywords"), CASES)
def test_unary_and_mapped_results_are_the_same(
    client: Client, address: str, verb: str, model: str, inputs: list[Any], keywords: dict[str, Any]
) -> None:
    with client.map(verb, inputs, model=model, **keywords) as stream:  # type: ignore[call-overload]
        mapped = [each.result for each in stream]

    async def asynchronously() -> list[Any]:
        async with AsyncClient(address) as other:
            return [
                each.result
                async for each in other.map(verb, inputs, model=model, **keywords)  # type: ignore[call-overload]
            ]

    again = asyncio.run(asynchronously())
    unary = getattr(client, verb)(inputs, model=model, **keywords)
    assert len(mapped) == len(again) == len(unary) == len(inputs)
    for ours, theirs, whole in zip(mapped, again, unary, strict=True):
        if verb == "embed":
            np.testing.assert_allclose(ours.tensor.numpy(), whole, atol=1e-5)
            np.testing.assert_allclose(theirs.tensor.numpy(), whole, atol=1e-5)
        else:
            assert_alike(plain(ours), plain(whole))
            assert_alike(plain(theirs), plain(whole))


def assert_alike(ours: Any, expected: Any) -> None:
    """Equal, numbers within 1e-5."""
    if isinstance(expected, dict):
        for name, value in expected.items():
            assert_alike(ours[name], value)
    elif isinstance(expected, tuple):
        for one, other in zip(ours, expected, strict=True):
            assert_alike(one, other)
    elif hasattr(expected, "__dataclass_fields__"):
        assert_alike(plain(ours), plain(expected))
    else:
        assert ours == (pytest.approx(expected, abs=1e-5) if isinstance(expected, float) else expected)


def test_a_translation_model_embeds_with_its_encoder(client: Client, translator_directory: Path) -> None:
    vector = client.embed("the king sees the city .", model="translator", language="en", pooling="mean")
    model = XLMEncoderDecoder.from_pretrained(translator_directory)
    tokens = client.tokenize("the king sees the city .", model="translator", add_special_tokens=True)
    ids = torch.tensor([tokens.ids])
    with torch.no_grad():
        states = model.encode(ids, langs=torch.full_like(ids, model.config.encoder.lang2id["en"]))
    np.testing.assert_allclose(vector, states[0].mean(0), atol=1e-5)


def test_fill_mask(client: Client) -> None:
    mask = client.model("masked").mask_token
    filled = client.fill_mask(f"paris is {mask} city", model="masked", top_k=3)
    [gap] = filled.masks
    assert len(gap.candidates) == 3
    assert gap.candidates[0].text == filled.text
    mapped = next(client.map("fill_mask", [f"paris is {mask} city"], model="masked", top_k=3))
    assert mapped.result.text == filled.text
    with pytest.raises(InvalidInput) as failed:
        client.fill_mask(["paris is big", f"a {mask}"], model="masked")
    assert (failed.value.input_index, failed.value.field_violations[0].field) == (0, "inputs[0].text")


def test_bad_items_leave_their_neighbours_alone(client: Client) -> None:
    inputs = ["paris is big", " ", "x " * 5000, 7, "who lives"]
    with client.map("embed", inputs, model="masked") as stream:
        found = list(stream)
    assert [mapped.error.reason if mapped.error else "" for mapped in found] == [
        "",
        "INVALID_INPUT",
        "INPUT_TOO_LONG",
        "INVALID_INPUT",
        "",
    ]
    assert found[1].error is not None
    assert found[1].error.field_violations[0].field == "embed.input.text"


def test_a_head_does_what_its_architecture_can(client: Client) -> None:
    with pytest.raises(TaskUnsupported) as failed:
        client.tag("paris", model="single")
    tasks = {Task.Name(task).removeprefix("TASK_") for task in client.model("single").tasks}
    assert set(failed.value.tasks) == tasks
    assert "CLASSIFY_SEQUENCE" in tasks


@pytest.fixture(scope="module")
def node_example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with its packages, in a folder of its own."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("Node.js is not installed")
    folder = tmp_path_factory.mktemp("node")
    for name in ("package.json", "every_rpc.js"):
        shutil.copy(EXAMPLE / name, folder)
    command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=90, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("npm did not answer in time")
    if done.returncode != 0:
        pytest.skip(f"npm could not install the packages: {done.stderr.strip()[:200]}")
    return folder


def test_a_client_in_another_language_calls_every_rpc(address: str, node_example: Path) -> None:
    done = subprocess.run(
        ["node", "every_rpc.js", address, REPOSITORY / "protos"],
        cwd=node_example,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"NODE_OPTIONS": ""},
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [name for name, outcome in told.items() if isinstance(outcome, dict) and "unsupported" in outcome] == []
    assert told["Generate"] == told["GenerateStream"] == told["ResumeStream"]
    assert len(told["Generate"]) == 4
    assert told["CancelRequest"] is False
    assert told["Translate"] == told["TranslateStream"] != ""
    assert told["Detokenize"].strip()
    assert told["Embed"]["length"] == pytest.approx(1, abs=1e-4)
    assert told["ClassifySequence"] in ("sad", "so so", "glad")
    assert told["ClassifyTokens"] == ["In", "the", "beginning"]
    assert told["AnswerQuestion"] in "in the beginning there was light"
    assert told["ChooseMultiple"] == 2
    assert told["Score"] > 1
    assert told["InferStream"]["tokens"] == told["Tokenize"]
    assert told["InferStream"]["error"].startswith("tokenize.input.text")
    assert told["InferStream"]["embed"] == told["Embed"]["shape"]
    assert told["InferStream"]["outputs"] == 3
    assert set(told) == every_rpc()


def every_rpc() -> set[str]:
    from xlmstream.v1 import inference_pb2, models_pb2, server_pb2

    return {
        method.name
        for module in (inference_pb2, models_pb2, server_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
