"""Translation models against a plain one (`plain_translation`), cached against uncached, batched against alone."""

import math

import pytest
import torch
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from xlm.plain_translation import EOS, PAD, PlainTranslator
from xlmstream_worker.xlm import (
    ConfigError,
    DecoderCache,
    XLMConfig,
    XLMDecoder,
    XLMEncoderDecoder,
    XLMEncoderDecoderConfig,
)

SIZES = {"vocab_size": 41, "emb_dim": 16, "n_layers": 2, "n_heads": 4, "n_langs": 3, "max_position_embeddings": 40}
LENGTHS = (7, 3, 12, 2, 5)
# Closer decisions than this may fall differently in batches of different shapes.
MARGIN = 1e-4


def fresh(**fields: object) -> XLMEncoderDecoder:
    """Weights far from initial ones; some sentences end by themselves, some at the limit."""
    torch.manual_seed(3)
    shape = {**SIZES, **fields}
    config = XLMEncoderDecoderConfig(XLMConfig(**shape), XLMConfig(**shape, is_encoder=False, causal=True))
    model = XLMEncoderDecoder.from_config(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.25 * torch.randn_like(parameter))
    model.decoder.pred_layer.proj.bias[EOS] += 1.5
    return model


@pytest.fixture(scope="module")
def model() -> XLMEncoderDecoder:
    return fresh()


@pytest.fixture(scope="module")
def plain(model: XLMEncoderDecoder) -> PlainTranslator:
    return PlainTranslator(dict(model.encoder.state_dict()), dict(model.decoder.state_dict()), SIZES["n_heads"])


@pytest.fixture(scope="module")
def batch() -> dict[str, torch.Tensor]:
    """Sources of ragged lengths in several languages."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.full((len(LENGTHS), max(LENGTHS)), PAD)
    for row, length in enumerate(LENGTHS):
        ids[row, :length] = torch.randint(5, 41, (length,), generator=generator)
        ids[row, 0] = ids[row, length - 1] = EOS
    langs = torch.tensor([0, 1, 2, 0, 1])[:, None].expand_as(ids)
    return {
        "input_ids": ids,
        "lengths": torch.tensor(LENGTHS),
        "langs": langs,
        "target_langs": torch.tensor([1, 2, 0, 2, 0]),
    }


def row_of(batch: dict[str, torch.Tensor], row: int) -> tuple[torch.Tensor, int, int]:
    length = LENGTHS[row]
    return batch["input_ids"][row, :length], int(batch["langs"][row, 0]), int(batch["target_langs"][row])


def alone(batch: dict[str, torch.Tensor], row: int) -> dict[str, torch.Tensor]:
    columns = {"input_ids", "langs"}
    return {
        name: value[row : row + 1, : LENGTHS[row]] if name in columns else value[row : row + 1]
        for name, value in batch.items()
    }


def test_logits_equal_the_plain_model(model, plain, batch):
    written = torch.randint(3, 41, (len(LENGTHS), 9), generator=torch.Generator().manual_seed(2))
    written[:, 0] = EOS
    logits = model(
        batch["input_ids"],
        written,
        batch["lengths"],
        batch["langs"],
        torch.full((len(LENGTHS),), 9),
        batch["target_langs"][:, None].expand_as(written),
    ).logits
    for row in range(len(LENGTHS)):
        source, lang, target_lang = row_of(batch, row)
        expected = plain.logits(source, lang, written[row], target_lang)
        torch.testing.assert_close(logits[row], expected, rtol=0, atol=1e-5)


def test_padding_of_translations_changes_nothing_and_comes_out_as_zeros(model, batch):
    states = model.encode(batch["input_ids"], batch["lengths"], batch["langs"])
    written = torch.randint(5, 41, (len(LENGTHS), 6))
    full = model.decoder(written, states, batch["lengths"])
    lengths = torch.tensor([6, 4, 1, 3, 6])
    padded = torch.where(torch.arange(6) < lengths[:, None], written, PAD)
    found = model.decoder(padded, states, batch["lengths"], lengths=lengths)
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(found[row, :length], full[row, :length], rtol=0, atol=1e-5)
        assert not found[row, length:].any()


@given(cuts=st.sets(st.integers(1, 11)), reorder=st.booleans())
@settings(max_examples=examples(20))
def test_cached_calls_equal_one_call(model, batch, cuts, reorder):
    T = 12
    written = torch.randint(3, 41, (len(LENGTHS), T), generator=torch.Generator().manual_seed(2))
    langs = batch["target_langs"][:, None].expand_as(written)
    source = model.encode(batch["input_ids"], batch["lengths"], batch["langs"])
    opened = torch.ones_like(written)
    whole = model.decoder(written, source, batch["lengths"], langs=langs, attention_mask=opened)
    cache, rows = DecoderCache(), torch.arange(len(LENGTHS))
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), T], strict=True):
        part = model.decoder(
            written[rows, start:end],
            # Only the first call reads the source.
            source if start == 0 else None,
            batch["lengths"] if start == 0 else None,
            langs=langs[rows, start:end],
            attention_mask=opened[:, start:end],
            cache=cache,
            cache_position=torch.arange(start, end),
        )
        torch.testing.assert_close(part, whole[rows, start:end], rtol=0, atol=1e-5)
        if reorder:
            moved = torch.tensor([2, 0, 4, 3, 1])
            cache.reorder(moved)
            rows = rows[moved]


@pytest.mark.parametrize("use_cache", [True, False], ids=["cached", "uncached"])
def test_greedy_equals_the_plain_model(model, plain, batch, use_cache):
    found = model.generate(**batch, use_cache=use_cache)
    finished = []
    for row, (hypothesis,) in enumerate(found):
        limit = int(1.5 * LENGTHS[row] + 10)
        source, lang, target_lang = row_of(batch, row)
        expected, margin = plain.greedy(source, lang, target_lang, limit)
        assert hypothesis.ids == expected or margin < MARGIN, margin
        assert len(hypothesis.ids) <= limit - 2
        total = 0.0
        ids = [EOS, *expected, EOS] if hypothesis.finished else [EOS, *expected]
        for place in range(1, len(ids)):
            scores = plain.next_token(source, lang, torch.tensor(ids[:place]), target_lang)
            total += scores[ids[place]].item()
        assert hypothesis.score == pytest.approx(total / (len(expected) + 1), abs=1e-4)
        finished.append(hypothesis.finished)
    assert set(finished) == {True, False}


@given(
    beams=st.integers(2, 5),
    length_penalty=st.sampled_from([0.0, 0.6, 1.0, 2.5]),
    early_stopping=st.booleans(),
    limit=st.integers(2, 14),
    use_cache=st.booleans(),
)
@settings(max_examples=examples(20))
def test_beam_search_equals_the_plain_one(model, plain, batch, beams, length_penalty, early_stopping, limit, use_cache):
    limits = torch.tensor([limit, 8, 14, max(2, limit - 1), 3])
    found = model.generate(
        **batch,
        max_lengths=limits,
        num_beams=beams,
        num_return_sequences=beams,
        length_penalty=length_penalty,
        early_stopping=early_stopping,
        use_cache=use_cache,
    )
    for row, hypotheses in enumerate(found):
        source, lang, target_lang = row_of(batch, row)
        expected, margin = plain.beam(
            source, lang, target_lang, int(limits[row]), beams, length_penalty, early_stopping
        )
        if margin < MARGIN:
            assert math.isclose(hypotheses[0].score, expected[0][0], abs_tol=0.1)
            continue
        assert [hypothesis.ids for hypothesis in hypotheses] == [ids for _, ids in expected]
        for hypothesis, (score, _) in zip(hypotheses, expected, strict=True):
            assert hypothesis.score == pytest.approx(score, abs=1e-4)


def test_most_searches_of_the_plain_comparison_are_decided_clearly(model, plain, batch):
    margins = [
        plain.beam(*row_of(batch, row), 12, beams, 1.0, False)[1] for row in range(len(LENGTHS)) for beams in (2, 4)
    ]
    assert sum(margin >= MARGIN for margin in margins) >= 7


@pytest.mark.parametrize("beams", [1, 4])
def test_a_row_comes_out_the_same_alone_and_in_a_batch(model, batch, beams):
    options = {"num_beams": beams, "num_return_sequences": beams}
    together = model.generate(**batch, **options)
    for row, expected in enumerate(together):
        (found,) = model.generate(**alone(batch, row), **options)
        assert [each.ids for each in found] == [each.ids for each in expected]
        assert [each.score for each in found] == pytest.approx([each.score for each in expected], abs=1e-4)


def test_more_beams_are_never_worse_than_the_first_by_their_own_measure(model, batch):
    for hypotheses in model.generate(**batch, num_beams=4, num_return_sequences=4):
        scores = [hypothesis.score for hypothesis in hypotheses]
        assert scores == sorted(scores, reverse=True)
        assert len(scores) == 4


def test_sampling_follows_the_distribution(model, plain, batch):
    rows, temperature = 4000, 1.5
    call = {name: value.expand(rows, *value.shape[1:]) for name, value in alone(batch, 1).items()}
    drawn = model.generate(
        **call,
        max_lengths=torch.full((rows,), 3),
        temperature=temperature,
        generator=torch.Generator().manual_seed(5),
    )
    counts = torch.zeros(41)
    for (hypothesis,) in drawn:
        counts[hypothesis.ids[0] if hypothesis.ids else EOS] += 1
    source, lang, target_lang = row_of(batch, 1)
    expected = (plain.logits(source, lang, torch.tensor([EOS]), target_lang)[-1] / temperature).softmax(-1)
    # Five standard deviations of each count.
    assert ((counts / rows - expected).abs() <= 5 * (expected / rows).sqrt() + 1e-3).all()
    again = model.generate(
        **call, max_lengths=torch.full((rows,), 3), temperature=temperature, generator=torch.Generator().manual_seed(5)
    )
    assert again == drawn


def test_a_cold_sample_is_greedy(model, batch):
    cold = model.generate(**batch, temperature=1e-4, generator=torch.Generator().manual_seed(1))
    assert [one.ids for (one,) in cold] == [one.ids for (one,) in model.generate(**batch)]


def test_gradients_reach_every_parameter(batch):
    model = fresh(tie_word_embeddings=False).train().requires_grad_(True)
    written = torch.randint(5, 41, (len(LENGTHS), 6))
    langs = batch["target_langs"][:, None].expand_as(written)
    loss = model(
        batch["input_ids"], written, batch["lengths"], batch["langs"], decoder_langs=langs, labels=written.roll(-1, 1)
    ).loss
    loss.backward()
    untouched = [name for name, parameter in model.named_parameters() if not parameter.grad.any()]
    # A constant added to every key of a softmax changes nothing.
    assert [name for name in untouched if not name.endswith("k_lin.bias")] == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"max_lengths": torch.tensor([1, 9, 9, 9, 9])}, "max_lengths"),
        ({"max_lengths": torch.tensor([41, 9, 9, 9, 9])}, "max_lengths"),
        ({"max_lengths": torch.tensor([9])}, "max_lengths"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": 1.0, "num_beams": 2}, "temperature"),
        ({"num_beams": 0}, "num_beams"),
        ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences"),
        ({"num_return_sequences": 0}, "num_return_sequences"),
    ],
)
def test_values_out_of_range_are_named(model, batch, change, named):
    with pytest.raises(ValueError, match=named):
        model.generate(**batch, **change)


def test_a_decoder_names_what_it_lacks(model):
    with pytest.raises(ConfigError, match="is_encoder=False"):
        XLMDecoder(XLMConfig(**SIZES))
    with pytest.raises(ValueError, match="source is needed"):
        model.decoder(torch.ones(1, 1, dtype=torch.long))
    with pytest.raises(ValueError, match="2 translations of 1 sources"):
        model.decoder(torch.ones(2, 1, dtype=torch.long), torch.zeros(1, 3, 16))
    with pytest.raises(ValueError, match="width 16"):
        model.decoder(torch.ones(1, 1, dtype=torch.long), torch.zeros(1, 3, 8))
    with pytest.raises(ValueError, match="source_lengths"):
        model.decoder(torch.ones(1, 1, dtype=torch.long), torch.zeros(1, 3, 16), torch.tensor([3, 3]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("beams", [1, 4])
def test_a_gpu_translates_alike(model, batch, beams):
    expected = model.generate(**batch, num_beams=beams)
    there = fresh().cuda()
    found = there.generate(**{name: value.cuda() for name, value in batch.items()}, num_beams=beams)
    for (one,), (other,) in zip(found, expected, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-3)
        assert one.ids == other.ids
