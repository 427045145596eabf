"""Packed encoding equals one forward per sequence, with both ways of attending."""

import pytest
import torch
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from xlmstream_worker.xlm import XLMConfig, XLMModel, encode_packed, pack, packed, packed_attention

SIZES = {"vocab_size": 61, "emb_dim": 16, "n_layers": 3, "n_heads": 4, "max_position_embeddings": 24}


@pytest.fixture(scope="module", params=["bidirectional", "causal", "no language embeddings", "relu, pruned", "chunked"])
def model(request):
    fields = {
        "bidirectional": {"n_langs": 3},
        "causal": {"n_langs": 3, "causal": True},
        "no language embeddings": {"n_langs": 3, "use_lang_emb": False},
        "relu, pruned": {"gelu_activation": False, "pruned_heads": {1: [0, 2]}},
        "chunked": {"chunk_size_feed_forward": 1},
    }[request.param]
    torch.manual_seed(0)
    return XLMModel(XLMConfig(**SIZES, embed_init_std=0.5, init_std=0.3, **fields)).eval().requires_grad_(False)


@pytest.fixture(scope="module", params=["runs", "several parts", "padded"])
def attention(request):
    """The way of attending on a CPU, all tokens at once and a few at a time, then the one on a GPU; all on this CPU."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "several parts":
            patch.setattr(packed, "PART_TOKENS", 8)
        elif request.param == "padded":
            patch.setattr(packed, "_parts", packed._whole)
        yield request.param


@st.composite
def batches(draw):
    sequences = draw(st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=9), min_size=1, max_size=7))

    def per_token(high):
        return [
            draw(st.none() | st.lists(st.integers(0, high), min_size=len(ids), max_size=len(ids))) for ids in sequences
        ]

    langs = draw(st.none() | st.lists(st.none() | st.integers(0, 2), min_size=len(sequences), max_size=len(sequences)))
    return sequences, per_token(2) if draw(st.booleans()) else langs, per_token(1) if draw(st.booleans()) else None


def alone(model, ids, langs, types, **options):
    rows = [None if values is None else torch.tensor([values]) for values in (langs, types)]
    ids = torch.tensor([ids])
    return model(ids, attention_mask=torch.ones_like(ids), langs=rows[0], token_type_ids=rows[1], **options)


@given(batch=batches())
@settings(max_examples=examples(20))
def test_equals_one_forward_per_sequence(model, attention, batch):
    sequences, langs, types = batch
    states = encode_packed(model, pack(sequences, langs=langs, token_type_ids=types))
    assert len(states) == len(sequences)
    assert states.values.shape == (sum(map(len, sequences)), 16)
    for i, ids in enumerate(sequences):
        lang = None if langs is None else langs[i]
        lang = [lang] * len(ids) if isinstance(lang, int) else lang
        expected = alone(model, ids, lang, None if types is None else types[i])
        torch.testing.assert_close(states[i], expected.last_hidden_state[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("layer", [0, 1, 3])
def test_any_layer(model, attention, layer):
    sequences = [[5, 6, 7], [8], [9, 10, 11]]
    states = encode_packed(model, pack(sequences), layer=layer)
    for i, ids in enumerate(sequences):
        expected = alone(model, ids, None, None, output_hidden_states=True).hidden_states[layer][0]
        torch.testing.assert_close(states[i], expected, rtol=0, atol=1e-5)


def test_some_layers_at_a_time(model, attention):
    batch = pack([[5, 6, 7], [8], [9, 10, 11]])
    encoding = packed.PackedEncoding(model, batch)
    passed = [encoding.done]
    for layers in (0, 1, 9):
        encoding.advance(layers)
        passed.append(encoding.done)
    assert passed == [0, 0, 1, encoding.layers]
    torch.testing.assert_close(encoding.states.values, encode_packed(model, batch).values, rtol=0, atol=0)


def test_nothing_is_computed_on_padding(model):
    batch = pack([[5] * 9, [6, 7], [8] * 9, [9]])
    assert len(batch.ids) == 21
    assert batch.runs == (packed.Run(0, 1, 1), packed.Run(1, 1, 2), packed.Run(3, 2, 9))


def test_on_a_gpu_one_long_sequence_pads_no_short_ones(model, monkeypatch):
    monkeypatch.setattr(packed, "_parts", packed._whole)
    sizes = []
    attend = packed_attention.F.scaled_dot_product_attention

    def seen(q, *rest, **options):
        sizes.append((q.shape[0], q.shape[2]))
        return attend(q, *rest, **options)

    monkeypatch.setattr(packed_attention.F, "scaled_dot_product_attention", seen)
    lengths = (3, 24, 2, 2, 24, 5, 12, 2, 4)
    states = encode_packed(model, pack([[5] * length for length in lengths]))
    assert sizes == [(3, 2), (3, 5), (3, 24)] * 3
    monkeypatch.undo()
    expected = encode_packed(model, pack([[5] * length for length in lengths]))
    torch.testing.assert_close(states.values, expected.values, rtol=0, atol=1e-5)


def test_no_part_has_more_tokens_than_it_may_but_for_one_long_sequence(model, monkeypatch):
    monkeypatch.setattr(packed, "PART_TOKENS", 8)
    encoding = packed.PackedEncoding(model, pack([[5] * length for length in (1, 2, 2, 3, 4, 4, 9, 10, 2)]))
    assert [(rows.start, rows.stop) for rows, _ in encoding._parts] == [(0, 7), (7, 14), (14, 18), (18, 27), (27, 37)]


WRONG = {
    "no sequence": ({"sequences": []}, "no sequence"),
    "an empty sequence": ({"sequences": [[5], []]}, "sequence 1 is empty"),
    "languages of another batch": ({"sequences": [[5]], "langs": [1, 2]}, "langs"),
    "languages of another length": ({"sequences": [[5]], "langs": [[1, 2]]}, r"langs\[0\]"),
    "types of another length": ({"sequences": [[5], [6, 7]], "token_type_ids": [None, [0]]}, r"token_type_ids\[1\]"),
}


@pytest.mark.parametrize(("call", "named"), WRONG.values(), ids=WRONG)
def test_a_wrong_batch_is_refused_by_name(call, named):
    with pytest.raises(ValueError, match=named):
        pack(**call)


def test_more_than_the_model_has_is_refused(model):
    with pytest.raises(ValueError, match="max_position_embeddings"):
        encode_packed(model, pack([[5] * 25]))
    with pytest.raises(ValueError, match="layer"):
        encode_packed(model, pack([[5]]), layer=4)
    with pytest.raises(ValueError, match="eval"):
        encode_packed(XLMModel(model.config).train(), pack([[5]]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_equals_the_cpu_on_a_gpu(model, dtype):
    sequences = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14]]
    expected = encode_packed(model, pack(sequences)).values
    on_gpu = XLMModel(model.config).to("cuda", dtype).eval()
    on_gpu.load_state_dict(model.state_dict())
    actual = encode_packed(on_gpu, pack(sequences, device="cuda")).values.float().cpu()
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4 if dtype == torch.float32 else 0.15)
