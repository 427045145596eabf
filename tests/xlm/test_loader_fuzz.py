"""Damaged checkpoints: whatever the bytes, loading succeeds or raises a typed error that names the file."""

import json
from pathlib import Path

import pytest
import torch
from effort import examples
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from xlmstream_worker.xlm import CheckpointError, XLMConfig, XLMError, XLMModel

TINY = XLMConfig(vocab_size=20, emb_dim=4, n_layers=1, n_heads=2, max_position_embeddings=5)
FUZZ = settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A directory for each format: safetensors, pickle, shards."""
    root = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    model = XLMModel(TINY)
    model.save_pretrained(root / "safetensors")
    model.save_pretrained(root / "pickle", safe_serialization=False)
    model.save_pretrained(root / "shards", max_shard_bytes=400)
    return root


def load(directory: Path) -> str:
    """Load it; what became of it, for hypothesis to count (`--hypothesis-show-statistics`)."""
    message = None
    try:
        XLMModel.from_pretrained(directory)
    except XLMError as error:
        message = str(error)
    assert message is None or str(directory) in message
    return "loaded" if message is None else "refused"


def copy(source: Path, target: Path) -> Path:
    target.mkdir(exist_ok=True)
    for file in target.iterdir():
        file.unlink()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


@pytest.mark.parametrize("kind", ["safetensors", "pickle", "shards"])
@given(data=st.data())
@FUZZ
def test_damaged_bytes(saved, tmp_path, kind, data):
    directory = copy(saved / kind, tmp_path / kind)
    file = data.draw(st.sampled_from(sorted(directory.iterdir())))
    content = bytearray(file.read_bytes())
    # The first bytes hold lengths and opcodes: half of the damage goes there.
    at = data.draw(st.integers(0, len(content) - 1) | st.integers(0, min(60, len(content) - 1)))
    if data.draw(st.booleans()):
        del content[at:]
    else:
        damage = data.draw(st.binary(min_size=1, max_size=6))
        content[at : at + len(damage)] = damage
    file.write_bytes(bytes(content))
    event(load(directory))


names = st.sampled_from(["embeddings.weight", "attentions.0.q_lin.bias", "position_ids", "transformer.x", "", "a.b"])
tensors = st.builds(
    lambda shape, dtype: torch.ones(shape, dtype=dtype),
    st.lists(st.integers(0, 4), max_size=3) | st.just([20, 4]),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64]),
)


@given(changes=st.dictionaries(names, tensors, max_size=3), dropped=st.sets(names))
@FUZZ
def test_wrong_names_shapes_and_dtypes(saved, tmp_path, changes, dropped):
    directory = copy(saved / "safetensors", tmp_path / "changed")
    file = directory / "model.safetensors"
    content = {key: value for key, value in load_file(file).items() if key not in dropped} | changes
    save_file(content, file)
    event(load(directory))


json_values = st.none() | st.integers(-2, 9) | st.text(max_size=4) | st.lists(st.integers(), max_size=2)


@given(fields=st.dictionaries(st.sampled_from([*TINY.to_dict(), "n_words", "id2label"]), json_values, max_size=3))
@FUZZ
def test_configurations_that_do_not_fit_the_weights(saved, tmp_path, fields):
    directory = copy(saved / "safetensors", tmp_path / "config")
    (directory / "config.json").write_text(json.dumps(TINY.to_dict() | fields))
    event(load(directory))


@pytest.mark.parametrize(
    ("index", "named"),
    [
        ({}, "weight_map"),
        ([], "no index"),
        ({"weight_map": 3}, "no index"),
        ({"weight_map": {"embeddings.weight": "../../etc/passwd"}}, "outside"),
        ({"weight_map": {"embeddings.weight": "absent.safetensors"}}, "absent"),
        ({"weight_map": {"embeddings.bias": "part.safetensors"}}, "promises"),
    ],
)
def test_an_index_that_lies_is_refused(tmp_path, index, named):
    TINY.save_pretrained(tmp_path)
    save_file({"embeddings.weight": torch.ones(20, 4)}, tmp_path / "part.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=named):
        XLMModel.from_pretrained(tmp_path)
