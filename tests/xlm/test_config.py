"""XLMConfig against the oracle: signature, aliases, labels, JSON in both directions."""

import inspect
import json

import pytest
import torch
import transformers
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from xlmstream_worker.xlm import CheckpointError, ConfigError, XLMConfig, XLMModel


def test_signature_and_defaults_are_the_documented_ones():
    theirs = inspect.signature(transformers.XLMConfig.__init__).parameters
    ours = inspect.signature(XLMConfig.__init__).parameters
    assert [(name, p.default, p.kind) for name, p in ours.items()] == [
        (name, p.default, p.kind) for name, p in theirs.items()
    ]


def test_every_public_default_equals_the_oracle():
    theirs, ours = transformers.XLMConfig(), XLMConfig()
    # Fields of other architectures and frameworks, which no XLM code reads.
    foreign = {
        "cross_attention_hidden_size",
        "add_cross_attention",
        "tie_encoder_decoder",
        "exponential_decay_length_penalty",
        "tf_legacy_loss",
        "use_bfloat16",
    }
    names = {name for name in vars(theirs) if not name.startswith("_")} - foreign
    assert {name: getattr(ours, name) for name in names} == {name: getattr(theirs, name) for name in names}


KEYWORDS = {
    "defaults": {},
    "aliases": {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 3, "n_words": 99},
    "alias beside its field": {"n_words": 7, "vocab_size": 9, "hidden_size": 32, "emb_dim": 64},
    "labels by number": {"num_labels": 3},
    "one label": {"num_labels": 1},
    "labels by name": {"id2label": {"0": "no", "1": "yes", "2": "maybe"}},
    "labels both ways": {"id2label": {0: "no"}, "label2id": {"no": 0}},
    "unknown keys": {
        "lang2id": {"en": 0, "fr": 1},
        "id2lang": {"0": "en", "1": "fr"},
        "max_vocab": -1,
        "bptt": 256,
        "_note": "x",
    },
    "pruned heads": {"pruned_heads": {1: [2, 0]}},
    "generation": {"max_length": 40, "num_beams": 3, "eos_token_id": 1, "top_k": 50},
    "adaptive softmax": {"asm": True, "asm_cutoffs": [10, 20], "asm_div_value": 4.0},
    "flags": {"output_attentions": True, "torchscript": True, "problem_type": "regression"},
}


@pytest.mark.parametrize("keywords", KEYWORDS.values(), ids=KEYWORDS)
def test_values_and_json_equal_the_oracle(keywords, tmp_path):
    theirs, ours = transformers.XLMConfig(**keywords), XLMConfig(**keywords)
    for name in {*keywords, "emb_dim", "vocab_size", "num_labels", "id2label", "use_return_dict", "hidden_size"}:
        assert getattr(ours, name) == getattr(theirs, name), name
    written = json.loads(theirs.to_json_string())
    written.pop("transformers_version")
    assert json.loads(ours.to_json_string()) == written
    (tmp_path / "theirs").mkdir()
    theirs.to_json_file(tmp_path / "theirs" / "config.json")
    ours.save_pretrained(tmp_path / "ours")
    read = XLMConfig.from_pretrained(tmp_path / "theirs")
    read.transformers_version = None
    assert read == ours
    assert transformers.XLMConfig.from_pretrained(tmp_path / "ours").to_diff_dict() == theirs.to_diff_dict()
    text = (tmp_path / "ours" / "config.json").read_text()
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"


def test_the_first_published_format_loads(tmp_path):
    # As the first generation on the hub: no model_type, n_words for the vocabulary.
    (tmp_path / "config.json").write_text(json.dumps({"n_words": 77, "emb_dim": 8, "n_heads": 2, "is_encoder": True}))
    assert XLMConfig.from_pretrained(tmp_path).vocab_size == 77
    assert XLMConfig.from_pretrained(tmp_path / "config.json", n_words=78).n_words == 78


def test_overrides_come_after_the_file(tmp_path):
    XLMConfig(id2label={0: "no", 1: "yes", 2: "maybe"}).save_pretrained(tmp_path)
    assert XLMConfig.from_pretrained(tmp_path, num_labels=3).id2label[2] == "maybe"
    assert XLMConfig.from_pretrained(tmp_path, num_labels=2).id2label == {0: "LABEL_0", 1: "LABEL_1"}
    assert XLMConfig.from_pretrained(tmp_path, causal=True).causal


def test_dtype_has_one_spelling():
    assert XLMConfig(dtype=torch.float16).dtype == XLMConfig(torch_dtype="float16").dtype == "float16"


BAD = {
    "vocab_size": [0, -1, "many", 1.5, None, True],
    "emb_dim": [0, 17],
    "n_heads": [0, 3],
    "n_layers": [0, "12"],
    "pad_index": [-1, 30145],
    "dropout": [-0.1, 1.1, "no", float("nan")],
    "layer_norm_eps": [-1, None],
    "causal": ["yes", 1],
    "summary_type": ["middle", None],
    "problem_type": ["guessing"],
    "num_labels": [-1, "three"],
    "id2label": [[1, 2], {"a": "b"}, {0: 1}],
    "pruned_heads": [{"0": [99]}, {"99": [0]}, [1], {"0": "all"}, {"0": list(range(16))}],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in BAD for value in BAD[name]])
def test_impossible_values_are_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=name):
        XLMConfig(**{name: value})


@pytest.mark.parametrize("name", ["to_dict", "__class__", "use_return_dict"])
def test_keys_that_would_break_the_object_are_refused(name):
    with pytest.raises(ConfigError, match=name):
        XLMConfig(**{name: 1})


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\ud800".encode("utf-8", "surrogatepass"), "[" * 100_000])
def test_files_that_are_no_configuration_are_refused(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CheckpointError, match=r"config\.json"):
        XLMConfig.from_pretrained(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json"):
        XLMConfig.from_pretrained(tmp_path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 40) | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=5,
)
field_names = st.sampled_from([*inspect.signature(XLMConfig.__init__).parameters][1:-1]) | st.sampled_from(
    ["id2label", "label2id", "num_labels", "pruned_heads", "n_words", "hidden_size", "dtype", "architectures", "x"]
)


@given(fields=st.dictionaries(field_names, json_values, max_size=4))
@settings(max_examples=examples(300))
def test_any_json_gives_a_usable_configuration_or_a_typed_error(fields):
    try:
        config = XLMConfig.from_dict({"emb_dim": 8, "n_heads": 2, "n_layers": 1, "vocab_size": 40} | fields)
        with torch.device("meta"):
            XLMModel(config)
    except ConfigError:
        return
    again = XLMConfig.from_dict(json.loads(config.to_json_string()))
    assert again.to_json_string() == config.to_json_string()
