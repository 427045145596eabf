"""Every argument of XLMModel.forward against the oracle, and the errors for arguments that do not fit."""

import pytest
import torch
from xlmstream_worker.xlm import KVCache, XLMConfig, XLMModel

B, T = 3, 9


def variants() -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)

    def integers(high: int) -> torch.Tensor:
        return torch.randint(0, high, (B, T), generator=generator)

    mask = torch.ones(B, T, dtype=torch.long)
    mask[1, 6:] = 0
    mask[2, :2] = 0
    return {
        "none": {},
        "attention_mask": {"attention_mask": mask},
        "bool mask": {"attention_mask": mask.bool()},
        "fractional mask": {"attention_mask": mask * torch.rand(B, T, generator=generator).clamp(min=0.1)},
        "langs": {"langs": integers(3)},
        "token_type_ids": {"token_type_ids": integers(2)},
        "position_ids": {"position_ids": integers(24)},
        "lengths": {"lengths": torch.tensor([9, 4, 0])},
        "lengths beside a mask": {"attention_mask": mask, "lengths": torch.tensor([1, 1, 1])},
        "head_mask for all layers": {"head_mask": torch.tensor([1.0, 0.0, 0.5, 1.0])},
        "head_mask per layer": {"head_mask": torch.rand(2, 4, generator=generator)},
        "everything": {
            "attention_mask": mask,
            "langs": integers(3),
            "token_type_ids": integers(2),
            "position_ids": integers(24),
            "lengths": torch.tensor([9, 4, 2]),
            "head_mask": torch.rand(2, 4, generator=generator),
        },
    }


@pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
@pytest.mark.parametrize("call", variants().values(), ids=variants())
def test_argument_acts_as_in_the_oracle(oracle, call, causal):
    ours, theirs = oracle.pair(XLMModel, n_langs=3, causal=causal)
    call = oracle.inputs() | call | {"output_hidden_states": True}
    for attentions in (False, True):
        oracle.assert_equal(ours(**call, output_attentions=attentions), theirs(**call, output_attentions=attentions))


def test_embeds_replace_ids_and_ids_beside_them_still_tell_the_padding(oracle):
    ours, theirs = oracle.pair(XLMModel)
    embeds = torch.randn(B, T, 16)
    oracle.assert_equal(ours(inputs_embeds=embeds), theirs(inputs_embeds=embeds))
    both = oracle.inputs() | {"inputs_embeds": embeds}
    oracle.assert_equal(ours(**both), theirs(**both))


def test_interior_padding_shortens_the_row_as_in_the_oracle(oracle):
    ours, theirs = oracle.pair(XLMModel)
    ids = oracle.inputs()["input_ids"]
    ids[0, 2:4] = 2
    oracle.assert_equal(ours(ids), theirs(ids))


def test_flags_default_to_the_configuration(oracle):
    ours, theirs = oracle.pair(XLMModel, output_hidden_states=True, output_attentions=True, return_dict=False)
    ids = oracle.inputs()["input_ids"]
    oracle.assert_equal(ours(ids), theirs(ids))
    assert isinstance(ours(ids), tuple)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_a_row_of_padding_gives_zeros_on_both_attention_paths(oracle, dtype):
    model = XLMModel(XLMConfig(**oracle.sizes)).to(dtype).eval()
    ids = oracle.inputs()["input_ids"]
    ids[0] = 2
    for attentions in (False, True):
        states = model(ids, output_attentions=attentions).last_hidden_state
        assert states[0].abs().max() == 0
        assert states.isfinite().all()


def test_arguments_are_left_as_they_were(oracle):
    ours, _ = oracle.pair(XLMModel, n_langs=3)
    call = oracle.inputs() | variants()["everything"]
    before = {name: tensor.clone() for name, tensor in call.items()}
    ours(**call)
    assert all(torch.equal(before[name], tensor) for name, tensor in call.items())


def test_unknown_keywords_are_ignored_as_documented(oracle):
    ours, _ = oracle.pair(XLMModel)
    ids = oracle.inputs()["input_ids"]
    oracle.assert_equal(ours(ids, use_cache=True), ours(ids))


IDS = torch.full((2, 5), 7)
WRONG = {
    "neither ids nor embeds": ({}, "input_ids and inputs_embeds"),
    "ids without rows": ({"input_ids": IDS[0]}, "input_ids"),
    "embeds of the wrong rank": ({"inputs_embeds": torch.zeros(2, 5)}, "inputs_embeds"),
    "mask": ({"input_ids": IDS, "attention_mask": torch.ones(2, 4)}, "attention_mask"),
    "mask with heads": ({"input_ids": IDS, "attention_mask": torch.ones(2, 5, 5)}, "attention_mask"),
    "langs": ({"input_ids": IDS, "langs": torch.zeros(1, 5, dtype=torch.long)}, "langs"),
    "token types": ({"input_ids": IDS, "token_type_ids": IDS[:, :3]}, "token_type_ids"),
    "positions": ({"input_ids": IDS, "position_ids": torch.arange(5)}, "position_ids"),
    "lengths of another batch": ({"input_ids": IDS, "lengths": torch.tensor([5])}, "lengths"),
    "lengths beyond the ids": ({"input_ids": IDS, "lengths": torch.tensor([5, 6])}, "lengths"),
    "too many positions": ({"input_ids": torch.full((1, 25), 7)}, "max_position_embeddings"),
    "head mask": ({"input_ids": IDS, "head_mask": torch.ones(3)}, "head_mask"),
    "head mask per layer": ({"input_ids": IDS, "head_mask": torch.ones(3, 4)}, "head_mask"),
    "cache on a bidirectional model": ({"input_ids": IDS, "cache": KVCache()}, "causal"),
}


@pytest.mark.parametrize(("call", "named"), WRONG.values(), ids=WRONG)
def test_a_wrong_argument_is_named(oracle, call, named):
    model = XLMModel(XLMConfig(**oracle.sizes)).eval()
    with pytest.raises(ValueError, match=named):
        model(**call)


def test_chunks_must_divide_the_sequence(oracle):
    model = XLMModel(XLMConfig(**oracle.sizes, chunk_size_feed_forward=4)).eval()
    with pytest.raises(ValueError, match="chunk_size_feed_forward 4 does not divide the 5"):
        model(IDS)


def test_a_cache_of_another_kind_is_refused(oracle):
    model = XLMModel(XLMConfig(**oracle.sizes, causal=True)).eval()
    with pytest.raises(TypeError, match="KVCache"):
        model(IDS, cache={})


def test_the_translation_decoder_is_announced_not_pretended(oracle):
    with pytest.raises(ValueError, match="is_encoder=False"):
        XLMModel(XLMConfig(**oracle.sizes, is_encoder=False))
