"""Translation as an objective: batches, the first weights, what a trained model does, how it is judged."""

from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from xlmstream_worker.training.corpus import Aligned, CorpusError, Sentences
from xlmstream_worker.training.export import export_model
from xlmstream_worker.training.models import new_model
from xlmstream_worker.training.objectives import translation_loss
from xlmstream_worker.training.pipeline import run_recipe
from xlmstream_worker.training.recipe import Recipe
from xlmstream_worker.training.trainer import Sitting
from xlmstream_worker.training.translate import translate
from xlmstream_worker.training.translation_batches import TranslationBatches, held_out_pairs, translation_batch
from xlmstream_worker.training.translation_figures import quality
from xlmstream_worker.xlm import XLMEncoderDecoder, XLMTokenizer, XLMWithLMHeadModel

MakeRecipe = Callable[..., Recipe]
IDS = {"de": 0, "en": 1, "fr": 2}
TRANSLATION = {"translation": {"batch_tokens": 512}}
# Word order and length differ between the sides, and one word has two translations, told apart by what follows.
PARALLEL = [
    ("the dog sees", "voit le chien"),
    ("the dog hears a cat", "entend la chatte le chien"),
    ("a cat sees the king", "voit le roi la chatte"),
    ("the king calls the dog today", "aujourd'hui appelle le chien le roi"),
    ("not a king", "pas un roi"),
    ("not a city", "pas une ville"),
    ("the city", "la ville"),
    ("today the cat hears not the king and calls", "aujourd'hui la chatte n'entend pas le roi et appelle"),
]


def test_batches_hold_translations_in_every_direction(toy_corpus: dict[str, Aligned]) -> None:
    corpus = toy_corpus["train"]
    batches = TranslationBatches(corpus, IDS, 32, 400, seed=3)
    rows = {lang: [tuple(text[row].tolist()) for row in range(len(text))] for lang, text in corpus.items()}
    seen = set()
    for number in range(12):
        batch = batches[number]
        source, target = batch.source, batch.target
        assert source.ids.numel() + target.ids.numel() <= 400
        for row in range(len(source.ids)):
            length = int(source.mask[row].sum())
            words = source.ids[row, :length].tolist()
            written = target.ids[row, : int(target.mask[row].sum())].tolist()
            asked = target.targets[row][target.targets[row] >= 0].tolist()
            langs = [set(side.langs[row].tolist()) for side in (source, target)]
            assert words[0] == words[-1] == written[0] == asked[-1] == 1
            assert written[1:] == asked[:-1]
            names = [next(name for name, index in IDS.items() if {index} == lang) for lang in langs]
            assert rows[names[0]].index(tuple(words[1:-1])) == rows[names[1]].index(tuple(asked[:-1]))
            seen.add(tuple(names))
    assert seen == set(permutations(IDS, 2))


def test_a_pass_holds_every_pair_once() -> None:
    corpus = {"de": Sentences.of([[20], [21, 22], [], [23]]), "en": Sentences.of([[30], [31], [32], [*range(33, 60)]])}
    batches = TranslationBatches(corpus, {"de": 0, "en": 1}, 20, 16, seed=1)
    pairs = [tuple(entry[:3]) for plan in batches.plan(np.random.default_rng(0)) for entry in plan.tolist()]
    # Row 2 lacks a language, and a side of row 3 is longer than the model's positions.
    assert sorted(pairs) == [(0, 1, 0), (0, 1, 1), (1, 0, 0), (1, 0, 1)]


def test_validation_takes_rows_that_the_most_languages_have() -> None:
    corpus = {
        "de": Sentences.of([[20], [], [21], [22]]),
        "en": Sentences.of([[30], [31], [32], [33]]),
        "fr": Sentences.of([[], [40], [41], [42]]),
    }
    assert held_out_pairs(corpus, IDS, "en", "de", 20, 8)[:, 2].tolist() == [2, 3]
    assert held_out_pairs(corpus, IDS, "en", "fr", 20, 1)[:, 2].tolist() == [2]
    with pytest.raises(CorpusError, match="de and it"):
        held_out_pairs({**corpus, "it": Sentences.of([[], [50], [], []])}, {**IDS, "it": 3}, "de", "it", 20, 8)


def test_the_loss_is_that_of_plain_calls(
    toy_corpus: dict[str, Aligned], make_recipe: MakeRecipe, toy_tokenizer: XLMTokenizer
) -> None:
    model = new_model(make_recipe(objectives=TRANSLATION), toy_tokenizer).eval()
    assert isinstance(model, XLMEncoderDecoder)
    pairs = held_out_pairs(toy_corpus["valid"], IDS, "fr", "de", 32, 5)
    batch = translation_batch(toy_corpus["valid"], IDS, pairs)
    nats, tokens = 0.0, 0
    for _, _, row, _ in pairs.tolist():
        source = torch.tensor([[1, *toy_corpus["valid"]["fr"][row].tolist(), 1]])
        words = [1, *toy_corpus["valid"]["de"][row].tolist(), 1]
        target = torch.tensor([words[:-1]])
        logits = model(source, target, langs=torch.full_like(source, 2), decoder_langs=torch.zeros_like(target)).logits
        nats += torch.nn.functional.cross_entropy(logits[0], torch.tensor(words[1:]), reduction="sum").item()
        tokens += len(words) - 1
    assert translation_loss(model, batch, 0.0).item() == pytest.approx(nats / tokens, abs=1e-4)
    assert translation_loss(model, batch, 0.2).item() != pytest.approx(nats / tokens, abs=1e-4)


def test_both_sides_start_from_trained_models(
    toy_file: Path, tmp_path: Path, make_recipe: MakeRecipe, toy_tokenizer: XLMTokenizer
) -> None:
    paths = {}
    for name, objectives in {"init": {"mlm": {"batch_tokens": 256}}, "init_decoder": {"clm": {}}}.items():
        run_recipe(make_recipe(objectives=objectives, validate_every=5), [toy_file], tmp_path / name, Sitting(until=5))
        paths[name] = str(tmp_path / name / "best")
    model = new_model(make_recipe(objectives=TRANSLATION, **paths), toy_tokenizer)
    assert isinstance(model, XLMEncoderDecoder)
    masked, causal = (XLMWithLMHeadModel.from_pretrained(path) for path in paths.values())
    for name, value in masked.transformer.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], value), name
    for name, value in causal.transformer.state_dict().items():
        assert torch.equal(model.decoder.state_dict()[name], value), name
    # What the fresh norms pass on has the mean and the spread over the channels that it had before them.
    states = torch.randn(50, 32)
    for block in model.decoder.blocks():
        before = block.norm1(states)
        after = block.norm15(before)
        assert after.mean().item() == pytest.approx(before.mean().item(), abs=0.02)
        assert after.std().item() == pytest.approx(before.std().item(), rel=0.1)


def test_a_parallel_set_is_learned_by_heart(tmp_path: Path, make_recipe: MakeRecipe) -> None:
    lines = ["split\ten\tfr"]
    lines += ["\t".join([split, *pair]) for split in ("train", "valid", "test") for pair in PARALLEL]
    corpus = tmp_path / "parallel.tsv"
    corpus.write_text("\n".join(lines) + "\n", encoding="utf-8")
    recipe = make_recipe(
        languages=["en", "fr"],
        vocabulary_size=400,
        objectives={"translation": {"batch_tokens": 1000}},
        schedule={"steps": 150, "warmup_steps": 10, "peak_lr": 1e-2},
        validate_every=150,
    )
    run_recipe(recipe, [corpus], tmp_path / "run", Sitting())
    export_model(tmp_path / "run", tmp_path / "model")
    model = XLMEncoderDecoder.from_pretrained(tmp_path / "model")
    tokenizer = XLMTokenizer.from_pretrained(tmp_path / "model")
    texts = {"en": [pair[0] for pair in PARALLEL], "fr": [pair[1] for pair in PARALLEL]}
    ids = {
        lang: [np.array(tokenizer.encode(text, add_special_tokens=False, lang=lang)) for text in rows]
        for lang, rows in texts.items()
    }
    for source, target in permutations(("en", "fr")):
        for beams in (1, 3):
            found = translate(model, ids[source], recipe.lang2id[source], recipe.lang2id[target], beams)
            assert found == [row.tolist() for row in ids[target]]


def test_quality_is_that_of_the_published_measures() -> None:
    pytest.importorskip("sacrebleu")
    references = ["the dog sees the king today .", "a cat hears the city ."]
    assert quality(references, references).bleu == pytest.approx(100)
    assert quality(references, references).chrf == pytest.approx(100)
    # By hand: of 1 to 4 words in a row 11/13, 7/11, 3/9 and none of 7, which counts as a half; no brevity penalty.
    found = quality(["the dog sees a king today .", "a cat sees the city ."], references)
    assert found.bleu == pytest.approx(100 * (11 / 13 * 7 / 11 * 3 / 9 * 0.5 / 7) ** 0.25, abs=0.01)
