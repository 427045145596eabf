"""What batches hold: every sentence, in the documented form, the same for the same number."""

import numpy as np
import pytest
import torch
from xlmstream_worker.training.batches import EOS, IGNORED, MASK, Batch, CausalBatches, causal_rows
from xlmstream_worker.training.corpus import Aligned, Sentences
from xlmstream_worker.training.masked_batches import MaskedBatches, RankingBatches, mask_tokens

IDS = {"de": 0, "en": 1, "fr": 2}


def whole_sentences(row: list[int]) -> set[tuple[int, ...]]:
    """The sentences of a row that its `</s>` close."""
    whole: set[tuple[int, ...]] = set()
    current: list[int] = []
    for token in row[1:]:
        if token == EOS:
            whole.add(tuple(current))
            current = []
        else:
            current.append(token)
    return whole


def equal(one: Batch, other: Batch) -> bool:
    pairs = zip(vars(one).values(), vars(other).values(), strict=True)
    return all((a is None and b is None) or torch.equal(a, b) for a, b in pairs)


def test_causal_rows_begin_with_a_sentence_and_predict_the_next_token(toy_corpus: dict[str, Aligned]) -> None:
    corpus = toy_corpus["train"]
    starts = {tuple(corpus[lang][index].tolist()) for lang in corpus for index in range(len(corpus[lang]))}
    batches = CausalBatches(corpus, IDS, width=32, batch_tokens=128, seed=1)
    batch = batches[0]
    assert batch.ids.shape == (4, 32)
    assert torch.equal(batch.ids[:, 1:], batch.targets[:, :-1])
    for row, langs in zip(batch.ids.tolist(), batch.langs.tolist(), strict=True):
        assert row[0] == EOS
        assert len(set(langs)) == 1
        assert whole_sentences(row) <= starts


def test_a_pass_shows_every_sentence_whole_but_for_its_ends(toy_corpus: dict[str, Aligned]) -> None:
    corpus = {"en": toy_corpus["train"]["en"]}
    batches = CausalBatches(corpus, {"en": 0}, width=32, batch_tokens=32, seed=3)
    seen: set[tuple[int, ...]] = set()
    for number in range(len(batches.plan(np.random.default_rng((3, 0, 0))))):
        row = batches[number].ids[0].tolist()
        seen |= whole_sentences([*row, *batches[number].targets[0, -1:].tolist()])
    everything = [tuple(corpus["en"][index].tolist()) for index in range(len(corpus["en"]))]
    # A pass starts within the first eight sentences and drops what no longer fills a row.
    assert set(everything[8:-12]) <= seen


def test_a_batch_depends_on_its_number_alone(toy_corpus: dict[str, Aligned]) -> None:
    corpus = toy_corpus["train"]
    for make in (
        lambda: CausalBatches(corpus, IDS, 32, 128, seed=1),
        lambda: MaskedBatches(corpus, IDS, 32, 256, 420, seed=1),
        lambda: MaskedBatches(corpus, IDS, 32, 256, 420, seed=1, pairs=True),
    ):
        in_order = make()
        forward = [in_order[number] for number in range(120)]
        jumping = make()
        assert all(equal(jumping[number], forward[number]) for number in (119, 3, 64, 0))
        assert len(in_order.plan(np.random.default_rng(1))) < 119
        assert not equal(forward[0], forward[1])


def test_measuring_rows_ask_for_each_token_once(toy_corpus: dict[str, Aligned]) -> None:
    corpus = toy_corpus["valid"]
    wanted = sorted([*corpus["en"].ids.tolist(), *[EOS] * len(corpus["en"])])
    for alone in (False, True):
        rows = causal_rows(corpus, "en", 1, 32, per_sentence=alone)
        asked = [int(token) for batch in rows for token in batch.targets.flatten() if token != IGNORED]
        assert sorted(asked) == wanted
        assert all(bool((batch.langs == 1).all()) for batch in rows)


def test_masking_takes_words_only_and_leaves_the_rest_alone() -> None:
    rng = np.random.default_rng(0)
    ids = np.full((40, 60), 2)
    ids[:, :50] = rng.integers(14, 500, (40, 50))
    ids[:, 0] = ids[:, 25] = EOS
    shown, targets = mask_tokens(ids, 500, rng)
    chosen = targets != IGNORED
    assert not chosen[ids < 14].any()
    assert np.array_equal(targets[chosen], ids[chosen])
    assert np.array_equal(shown[~chosen], ids[~chosen])
    words = int((ids >= 14).sum())
    assert 0.12 < chosen.sum() / words < 0.18
    assert 0.75 < (shown[chosen] == MASK).mean() < 0.85
    assert 0.05 < (shown[chosen] == ids[chosen]).mean() < 0.15
    short = np.array([[EOS, 20, EOS, 2]])
    assert mask_tokens(short, 500, rng)[1].tolist() == [[IGNORED, 20, IGNORED, IGNORED]]


def test_translation_pairs_restart_positions_and_change_language(toy_corpus: dict[str, Aligned]) -> None:
    batches = MaskedBatches(toy_corpus["train"], IDS, 32, 256, 420, seed=1, pairs=True)
    stated = [batch for batch in (batches[number] for number in range(20)) if batch.langs is not None]
    assert 0 < len(stated) < 20
    for batch in stated:
        assert batch.ids.numel() <= 256
        for place in range(len(batch.ids)):
            length = int(batch.mask[place].sum())
            ids = torch.where(batch.targets == IGNORED, batch.ids, batch.targets)[place, :length].tolist()
            positions = batch.positions[place, :length].tolist()
            middle = positions.index(0, 1)
            assert positions == [*range(middle), *range(length - middle)]
            assert [ids[0], ids[middle - 1], ids[middle], ids[-1]] == [EOS] * 4
            left, right = batch.langs[place, :middle].unique(), batch.langs[place, middle:length].unique()
            assert len(left) == len(right) == 1
            assert left != right


def test_ranking_pairs_are_translations_in_one_direction(toy_corpus: dict[str, Aligned]) -> None:
    corpus = toy_corpus["train"]
    rows = {lang: [tuple(corpus[lang][index].tolist()) for index in range(len(corpus[lang]))] for lang in corpus}
    batch = RankingBatches(corpus, IDS, 32, 8, seed=2)[0]
    left, right = (
        [tuple(int(token) for token in row if token not in (EOS, 2)) for row in side.ids]
        for side in (batch.left, batch.right)
    )
    direction = [
        (a, b) for a in rows for b in rows if a != b and set(left) <= set(rows[a]) and set(right) <= set(rows[b])
    ]
    assert len(left) == 8
    assert any(
        all(pair in set(zip(rows[a], rows[b], strict=True)) for pair in zip(left, right, strict=True))
        for a, b in direction
    )


def test_neighbouring_rows_share_a_ranking_batch_and_all_rows_take_part() -> None:
    rows, run, size = 96, 4, 8
    corpus = {lang: Sentences.of([[100 + row] for row in range(rows)]) for lang in IDS}
    batches = RankingBatches(corpus, IDS, 32, size, seed=2, neighbours=run)
    seen: set[int] = set()
    for plan in batches.plan(np.random.default_rng(1)):
        places = [item.row for item in plan.items]
        assert len({(item.left, item.right) for item in plan.items}) == 1
        for start in range(0, size, run):
            assert places[start : start + run] == list(range(places[start], places[start] + run))
            assert places[start] % run == 0
        seen.update(places)
    # What does not fill a batch of its direction is left out: less than one batch for each of the six.
    assert len(seen) > rows - 6 * size
    assert equal(batches[1].left, RankingBatches(corpus, IDS, 32, size, seed=2, neighbours=run)[1].left)


def test_languages_missing_from_a_row_are_passed_over() -> None:
    corpus = {"en": Sentences.of([[20, 21], [22], [23]]), "fr": Sentences.of([[30], [], [31, 32]])}
    batches = MaskedBatches(corpus, {"en": 0, "fr": 1}, 16, 64, 40, seed=1, pairs=True)
    batch = batches[0]
    restored = torch.where(batch.targets == IGNORED, batch.ids, batch.targets)
    assert len(restored) == 2
    assert not bool((restored == 22).any())


def test_a_corpus_without_one_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="too small"):
        CausalBatches({"en": Sentences.of([[20]])}, {"en": 0}, 32, 32, seed=1)[0]
