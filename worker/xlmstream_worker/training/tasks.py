"""From a recipe, its files and a tokenizer to what the trainer runs: batches, losses by objective, validation."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import permutations
from pathlib import Path

from torch import Tensor

from xlmstream_worker.xlm import XLMEncoderDecoder, XLMTokenizer, XLMWithLMHeadModel

from .batches import Batch, CausalBatches, PairBatch, causal_rows
from .corpus import Aligned, aligned_files, encode_files
from .head_tasks import head_tasks, reader
from .heads import BodyWithHeads
from .masked_batches import MaskedBatches, RankingBatches
from .models import AnyModel
from .objectives import language_model_loss, ranking_loss, translation_loss
from .recipe import HEADS, Recipe
from .trainer import AnyBatch, NumberedBatches, Task, mean_loss
from .translation_batches import Pairs, TranslationBatch, TranslationBatches, held_out_pairs, translation_batch

VALIDATION_BATCHES = 10
VALIDATION_PAIRS = 64

Validation = Callable[[AnyModel], Mapping[str, float]]


def build_tasks(
    recipe: Recipe, files: Sequence[Path], tokenizer: XLMTokenizer, cache: Path
) -> tuple[dict[str, Task], Validation]:
    """Training tasks by objective, and the function that measures held-out losses."""
    if recipe.translates:
        corpus = encode_files(files, recipe.languages, reader(None, tokenizer), cache)
        return _translation_tasks(recipe, corpus["train"], corpus["valid"])
    tasks: dict[str, Task] = {}
    held_out: dict[str, Task] = {}
    if bodies := [name for name in recipe.objectives if name not in HEADS]:
        corpus = encode_files(aligned_files(files), recipe.languages, reader(None, tokenizer), cache)
        size = len(tokenizer.encoder)
        tasks = {name: _body_task(recipe, name, corpus["train"], size) for name in bodies}
        if recipe.causal:
            return tasks, _causal_validation(recipe, corpus["valid"])
        held_out = {name: _body_task(recipe, name, corpus["valid"], size) for name in bodies}
    for name in recipe.heads:
        own_cache = cache.with_stem(f"{cache.stem}-{name}")
        tasks[name], held_out[name] = head_tasks(recipe, name, files, tokenizer, own_cache)
    return tasks, _validation(held_out)


def _body_task(recipe: Recipe, name: str, corpus: Aligned, vocabulary_size: int) -> Task:
    settings = recipe.objectives[name]
    common = (corpus, recipe.lang2id, recipe.architecture.max_positions)
    batches: NumberedBatches
    match name:
        case "clm":
            batches = CausalBatches(*common, settings.batch_tokens, recipe.seed)
        case "ranking":
            batches = RankingBatches(*common, settings.batch_pairs, recipe.seed, neighbours=settings.neighbours)
        case _:
            sizes = (settings.batch_tokens, vocabulary_size, recipe.seed)
            batches = MaskedBatches(*common, *sizes, pairs=name == "tlm")
    return Task(settings.weight, settings.every, batches, _ranking_loss if name == "ranking" else _lm_loss)


def _translation_tasks(recipe: Recipe, train: Aligned, valid: Aligned) -> tuple[dict[str, Task], Validation]:
    """Validation is per direction, on sentences that all or most languages have, without smoothing."""
    (name, settings), *_ = recipe.objectives.items()
    lang2id, width = recipe.lang2id, recipe.architecture.max_positions
    batches = TranslationBatches(train, lang2id, width, settings.batch_tokens, recipe.seed)
    loss = partial(_translation_loss, smoothing=settings.smoothing)
    held_out = {
        f"{source}-{target}": _short_batches(
            valid, lang2id, held_out_pairs(valid, lang2id, source, target, width, VALIDATION_PAIRS)
        )
        for source, target in permutations(sorted(recipe.languages), 2)
    }
    plain = partial(_translation_loss, smoothing=0.0)
    return (
        {name: Task(settings.weight, settings.every, batches, loss)},
        lambda model: {name: mean_loss(model, pairs, plain) for name, pairs in held_out.items()},
    )


def _short_batches(corpus: Aligned, lang2id: dict[str, int], pairs: Pairs) -> list[TranslationBatch]:
    """Pairs of like length together, 16 at a time."""
    ordered = pairs[pairs[:, 3].argsort()]
    return [translation_batch(corpus, lang2id, ordered[at : at + 16]) for at in range(0, len(ordered), 16)]


def _causal_validation(recipe: Recipe, corpus: Aligned) -> Validation:
    """Per language, over all of its held-out sentences."""
    width = recipe.architecture.max_positions
    rows = {
        lang: causal_rows(corpus, lang, index, width) for lang, index in recipe.lang2id.items() if len(corpus[lang].ids)
    }
    return lambda model: {lang: mean_loss(model, batches, _lm_loss) for lang, batches in rows.items()}


def _validation(tasks: Mapping[str, Task]) -> Validation:
    """Per objective, over the first batches."""
    return lambda model: {
        name: mean_loss(model, (task.batches[number] for number in range(VALIDATION_BATCHES)), task.loss)
        for name, task in tasks.items()
    }


def _lm_loss(model: AnyModel, batch: AnyBatch) -> Tensor:
    assert isinstance(batch, Batch)
    return language_model_loss(_language_model(model), batch)


def _ranking_loss(model: AnyModel, batch: AnyBatch) -> Tensor:
    assert isinstance(batch, PairBatch)
    return ranking_loss(_language_model(model), batch)


def _language_model(model: AnyModel) -> XLMWithLMHeadModel:
    lm = model.lm if isinstance(model, BodyWithHeads) else model
    assert isinstance(lm, XLMWithLMHeadModel)
    return lm


def _translation_loss(model: AnyModel, batch: AnyBatch, smoothing: float) -> Tensor:
    assert isinstance(model, XLMEncoderDecoder)
    assert isinstance(batch, TranslationBatch)
    return translation_loss(model, batch, smoothing)
