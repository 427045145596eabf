"""Checkpoint files: what the oracle saves we load, what we save it loads, in every format; and what must fail."""

import json
import logging

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from xlmstream_worker import xlm
from xlmstream_worker.xlm import (
    CheckpointError,
    ConfigError,
    XLMConfig,
    XLMForSequenceClassification,
    XLMModel,
    XLMWithLMHeadModel,
)
from xlmstream_worker.xlm.loading import LoadReport

CLASSES = [
    "XLMModel",
    "XLMWithLMHeadModel",
    "XLMForSequenceClassification",
    "XLMForMultipleChoice",
    "XLMForTokenClassification",
    "XLMForQuestionAnsweringSimple",
    "XLMForQuestionAnswering",
]
FORMATS = {
    "safetensors": (True, None),
    "safetensors in shards": (True, 6_000),
    "pickle": (False, None),
    "pickle in shards": (False, 6_000),
}


@pytest.mark.parametrize(("safe", "shard"), FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("name", CLASSES)
def test_files_are_exchanged_with_the_oracle(oracle, tmp_path, name, safe, shard):
    theirs = oracle.model(name, n_langs=2)
    options = {} if shard is None else {"max_shard_size": shard}
    theirs.save_pretrained(tmp_path / "theirs", safe_serialization=safe, **options)
    ours, report = getattr(xlm, name).from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert report == LoadReport()
    assert not ours.training
    options = {} if shard is None else {"max_shard_bytes": shard}
    ours.save_pretrained(tmp_path / "ours", safe_serialization=safe, **options)
    assert (len(list((tmp_path / "ours").iterdir())) > 2) == (shard is not None)
    cls = getattr(transformers, name)
    again, info = cls.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values())
    state = theirs.state_dict()
    assert {key: value.tolist() for key, value in again.state_dict().items()} == {
        key: value.tolist() for key, value in state.items()
    }
    assert ours.state_dict().keys() == state.keys()
    assert again.config.architectures == [name]


def test_a_later_save_leaves_no_stale_files(oracle, tmp_path):
    model = XLMModel(XLMConfig(**oracle.sizes))
    model.save_pretrained(tmp_path, max_shard_bytes=6_000)
    model.save_pretrained(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_a_bare_checkpoint_fits_a_model_with_a_head_and_the_reverse(oracle, tmp_path, caplog):
    theirs = oracle.model("XLMModel")
    theirs.save_pretrained(tmp_path / "bare")
    ids = oracle.inputs()["input_ids"]
    with caplog.at_level(logging.WARNING):
        ours, report = XLMForSequenceClassification.from_pretrained(tmp_path / "bare", output_loading_info=True)
    assert report.missing == ["sequence_summary.summary.weight", "sequence_summary.summary.bias"]
    assert "sequence_summary.summary.weight" in caplog.text
    assert torch.equal(ours.sequence_summary.summary.bias, torch.zeros(2))
    assert ours.sequence_summary.summary.weight.std() < 0.05
    oracle.assert_equal(ours.transformer(ids), theirs(ids))
    language, report = XLMWithLMHeadModel.from_pretrained(tmp_path / "bare", output_loading_info=True)
    assert report.missing == ["pred_layer.proj.bias"]
    assert language.pred_layer.proj.weight is language.transformer.embeddings.weight
    ours.save_pretrained(tmp_path / "head")
    bare, report = XLMModel.from_pretrained(tmp_path / "head", output_loading_info=True)
    assert report.unexpected == ["sequence_summary.summary.bias", "sequence_summary.summary.weight"]
    oracle.assert_equal(bare(ids), theirs(ids))


def test_the_embedding_wins_over_a_contradicting_tied_head(oracle, tmp_path):
    model = XLMWithLMHeadModel(XLMConfig(**oracle.sizes))
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert "pred_layer.proj.weight" not in tensors
    tensors["pred_layer.proj.weight"] = torch.ones(61, 16)
    save_file(tensors, tmp_path / "model.safetensors")
    tied = XLMWithLMHeadModel.from_pretrained(tmp_path)
    assert torch.equal(tied.pred_layer.proj.weight, model.transformer.embeddings.weight)
    free = XLMWithLMHeadModel.from_pretrained(tmp_path, tie_word_embeddings=False)
    assert torch.equal(free.pred_layer.proj.weight, torch.ones(61, 16))


def test_the_padding_row_is_loaded_as_it_is(oracle, tmp_path):
    model = XLMModel(XLMConfig(**oracle.sizes))
    with torch.no_grad():
        model.embeddings.weight[2] = 3.0
    model.save_pretrained(tmp_path)
    assert (XLMModel.from_pretrained(tmp_path).embeddings.weight[2] == 3.0).all()


def test_weights_become_float32_unless_a_dtype_is_asked_for(oracle, tmp_path):
    XLMModel(XLMConfig(**oracle.sizes)).half().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float16"
    for wanted, expected in [
        (None, torch.float32),
        ("auto", torch.float16),
        ("bfloat16", torch.bfloat16),
        (torch.float64, torch.float64),
    ]:
        assert XLMModel.from_pretrained(tmp_path, dtype=wanted).dtype == expected
    with pytest.raises(ConfigError, match="dtype"):
        XLMModel.from_pretrained(tmp_path, dtype="int8")


def test_the_first_published_files_load(oracle, tmp_path):
    """No model_type, `n_words`, stored positions, and the pickle format torch wrote before 1.6."""
    theirs = oracle.model("XLMWithLMHeadModel")
    fields = theirs.config.to_dict()
    fields["n_words"] = fields.pop("vocab_size")
    for key in ("model_type", "transformers_version", "architectures"):
        fields.pop(key)
    (tmp_path / "config.json").write_text(json.dumps(fields, default=str))
    state = theirs.state_dict() | {"transformer.position_ids": torch.arange(24)[None]}
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    ours, report = XLMWithLMHeadModel.from_pretrained(tmp_path, output_loading_info=True)
    assert report == LoadReport()
    ids = oracle.inputs()["input_ids"]
    oracle.assert_equal(ours(ids), theirs(ids))


def test_one_weight_file_loads_with_a_given_configuration(oracle, tmp_path):
    model = XLMModel(XLMConfig(**oracle.sizes)).eval()
    model.save_pretrained(tmp_path)
    file = (tmp_path / "model.safetensors").rename(tmp_path / "weights.safetensors")
    (tmp_path / "config.json").unlink()
    ids = oracle.inputs()["input_ids"]
    oracle.assert_equal(XLMModel.from_pretrained(file, config=model.config)(ids), model(ids))


def test_sizes_that_differ_are_an_error_unless_ignored(oracle, tmp_path):
    XLMForSequenceClassification(XLMConfig(**oracle.sizes)).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"sequence_summary.summary.weight is \(2, 16\).*\(3, 16\)"):
        XLMForSequenceClassification.from_pretrained(tmp_path, num_labels=3)
    model, report = XLMForSequenceClassification.from_pretrained(
        tmp_path, num_labels=3, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert report.mismatched == ["sequence_summary.summary.weight", "sequence_summary.summary.bias"]
    assert model(torch.full((1, 3), 7)).logits.shape == (1, 3)


def test_unknown_tensors_are_reported_and_unknown_overrides_refused(oracle, tmp_path):
    XLMModel(XLMConfig(**oracle.sizes)).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors") | {"pooler.weight": torch.ones(1)}
    save_file(tensors, tmp_path / "model.safetensors")
    _, report = XLMModel.from_pretrained(tmp_path, output_loading_info=True)
    assert report == LoadReport(unexpected=["pooler.weight"])
    with pytest.raises(TypeError, match="casual"):
        XLMModel.from_pretrained(tmp_path, casual=True)


def test_loaded_parameters_are_writable_and_independent_of_the_file(oracle, tmp_path):
    XLMModel(XLMConfig(**oracle.sizes)).save_pretrained(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    model = XLMModel.from_pretrained(tmp_path)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_path_without_a_checkpoint_says_what_is_missing(tmp_path):
    with pytest.raises(CheckpointError, match=r"FacebookAI.* does not exist"):
        XLMModel.from_pretrained("FacebookAI/xlm-mlm-en-2048")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        XLMModel.from_pretrained(tmp_path)
    XLMConfig(emb_dim=8, n_heads=2).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"no weights: expected one of model\.safetensors"):
        XLMModel.from_pretrained(tmp_path)


def test_a_pickle_with_code_is_not_run(oracle, tmp_path):
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("boom",)

    XLMConfig(**oracle.sizes).save_pretrained(tmp_path)
    torch.save({"embeddings.weight": Bomb()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        XLMModel.from_pretrained(tmp_path)


def test_whoever_may_read_the_directory_may_read_the_weights(oracle, tmp_path):
    for mode in (0o755, 0o700):
        directory = tmp_path / oct(mode)
        directory.mkdir(mode=mode)
        directory.chmod(mode)
        XLMModel(XLMConfig(**oracle.sizes)).save_pretrained(directory)
        assert (directory / "model.safetensors").stat().st_mode & 0o777 == mode & 0o666
