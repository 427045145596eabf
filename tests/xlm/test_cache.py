"""The key/value cache: any way of cutting a sequence into calls gives the states of one call."""

import pytest
import torch
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from xlmstream_worker.xlm import KVCache, XLMConfig, XLMModel, XLMWithLMHeadModel

T = 12
SIZES = {"vocab_size": 61, "emb_dim": 16, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 24}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = XLMModel(XLMConfig(**SIZES, causal=True, n_langs=2, embed_init_std=0.5, init_std=0.3)).eval()
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def ids():
    return torch.randint(5, 61, (3, T), generator=torch.Generator().manual_seed(1))


@given(cuts=st.sets(st.integers(1, T - 1)), incremental=st.booleans())
@settings(max_examples=examples(25))
def test_cached_calls_equal_one_call(model, ids, cuts, incremental):
    langs = torch.ones_like(ids)
    types = ids % 2
    whole = model(ids, langs=langs, token_type_ids=types).last_hidden_state
    cache, parts = KVCache(), []
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), T], strict=True):
        columns = slice(start if incremental else 0, end)
        position = torch.arange(start, end) if incremental else None
        output = model(
            ids[:, columns],
            langs=langs[:, columns],
            token_type_ids=types[:, columns],
            cache=cache,
            cache_position=position,
        )
        parts.append(output.last_hidden_state)
        assert parts[-1].shape[1] == end - start
        assert cache.get_seq_length() == end
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("call", [{"output_attentions": True}, {"head_mask": torch.tensor([1.0, 0.5, 0.0, 1.0])}])
def test_cached_calls_equal_one_call_on_the_explicit_path(model, ids, call):
    cache = KVCache()
    model(ids[:, :5], cache=cache, **call)
    rest = model(ids, cache=cache, **call)
    whole = model(ids, **call)
    torch.testing.assert_close(rest.last_hidden_state, whole.last_hidden_state[:, 5:], rtol=0, atol=1e-5)
    if "output_attentions" in call:
        assert rest.attentions[0].shape == (3, 4, T - 5, T)
        torch.testing.assert_close(rest.attentions[1], whole.attentions[1][:, :, 5:], rtol=0, atol=1e-5)


def test_the_oracle_agrees_on_full_ids(oracle):
    from transformers.cache_utils import DynamicCache, EncoderDecoderCache

    ours, theirs = oracle.pair(XLMWithLMHeadModel, causal=True, n_langs=3)
    ids = oracle.inputs(pads=0)["input_ids"]
    langs = ids % 3
    mine, other = KVCache(), EncoderDecoderCache(DynamicCache(), DynamicCache())
    for end in (4, 5, 9):
        call = {"input_ids": ids[:, :end], "langs": langs[:, :end], "output_attentions": True}
        oracle.assert_equal(ours(**call, cache=mine), theirs(**call, cache=other))


def test_padding_of_cached_rows_is_zeroed_like_in_one_call(model, ids):
    padded = ids.clone()
    padded[1, 9:] = 2
    whole = model(padded).last_hidden_state
    for incremental in (False, True):
        cache = KVCache()
        model(padded[:, :7], cache=cache)
        if incremental:
            rest = model(padded[:, 7:], cache=cache, cache_position=torch.arange(7, T))
        else:
            rest = model(padded, cache=cache)
        torch.testing.assert_close(rest.last_hidden_state, whole[:, 7:], rtol=0, atol=1e-5)
        assert rest.last_hidden_state[1, 2:].abs().max() == 0


def test_reorder_makes_rows_continue_other_rows(model, ids):
    cache = KVCache()
    model(ids[:, :6], cache=cache)
    cache.reorder(torch.tensor([2, 0]))
    swapped = torch.cat([ids[[2, 0], :6], ids[:2, 6:]], dim=1)
    rest = model(swapped, cache=cache).last_hidden_state
    torch.testing.assert_close(rest, model(swapped).last_hidden_state[:, 6:], rtol=0, atol=1e-5)


def test_crop_forgets_the_tail(model, ids):
    cache = KVCache()
    model(ids.flip(1), cache=cache)
    cache.crop(0)
    model(ids, cache=cache)
    cache.crop(8)
    assert cache.get_seq_length() == 8
    rest = model(ids, cache=cache).last_hidden_state
    torch.testing.assert_close(rest, model(ids).last_hidden_state[:, 8:], rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="crop"):
        cache.crop(13)


def test_calls_that_do_not_continue_the_cache_are_refused(model, ids):
    cache = KVCache()
    model(ids[:, :6], cache=cache)
    with pytest.raises(ValueError, match="nothing new"):
        model(ids[:, :6], cache=cache)
    with pytest.raises(ValueError, match="continue the 6"):
        model(ids[:, 6:8], cache=cache, cache_position=torch.tensor([7, 8]))
    with pytest.raises(ValueError, match="3 rows"):
        model(ids[:2], cache=cache)
    with pytest.raises(ValueError, match="max_position_embeddings"):
        model(torch.full((3, 20), 7), cache=cache, cache_position=torch.arange(6, 26))
    assert cache.get_seq_length() == 6
