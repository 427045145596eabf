"""From a recipe, its files and a tokenizer to what the trainer runs: batches, losses by objective, validation."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain, permutations
from pathlib import Path

from torch import Tensor

from xlmstream_worker.xlm import (
    XLMEncoderDecoder,
    XLMTokenizer,
    XLMWithLMHeadModel,
)

from .answers import made_readings
from .batches import Batch, CausalBatches, PairBatch, causal_rows
from .corpus import Aligned, encode_files, read_rows
from .labelled_batches import (
    BASE_LANGUAGE,
    Example,
    LabelledBatches,
    entity_examples,
    language_examples,
)
from .masked_batches import MaskedBatches, RankingBatches
from .models import AnyModel
from .objectives import LabelModel, label_loss, language_model_loss, ranking_loss, translation_loss
from .recipe import Recipe
from .tag_examples import annotated_examples, ruled_examples
from .tagged_text import TagRules
from .trainer import AnyBatch, NumberedBatches, Task, mean_loss
from .translation_batches import Pairs, TranslationBatch, TranslationBatches, held_out_pairs, translation_batch
from .vocabulary import encode_words

VALIDATION_BATCHES = 10
VALIDATION_PAIRS = 64

Validation = Callable[[AnyModel], Mapping[str, float]]


def build_tasks(
    recipe: Recipe, files: Sequence[Path], tokenizer: XLMTokenizer, cache: Path
) -> tuple[dict[str, Task], Validation]:
    """Training tasks by objective, and the function that measures held-out losses."""
    if recipe.head == "tags":
        tagged = [
            annotated_examples(path, tokenizer, recipe.languages, recipe.architecture.max_positions) for path in files
        ]
        train, valid = (
            [example for part in tagged for examples in part[split].values() for example in examples]
            for split in ("train", "test")
        )
        return _head_tasks(recipe, train, valid)
    shape = (recipe.languages, tokenizer, recipe.architecture.max_positions)
    if recipe.head == "answers":
        readings = made_readings(files, *shape)
        return _head_tasks(recipe, *([reading.example for reading in readings[split]] for split in ("train", "valid")))
    if recipe.head in ("entities", "ruled_tags"):
        rows = [row for path in files for row in read_rows(path, recipe.languages)]
        if recipe.head == "entities":
            labelled = entity_examples(rows, *shape)
        else:
            labelled = ruled_examples(TagRules(rows, recipe.languages), rows, *shape[1:])
        return _head_tasks(recipe, *(list(chain(*labelled[split].values())) for split in ("train", "valid")))
    corpus = encode_files(files, recipe.languages, reader(recipe, tokenizer), cache)
    if recipe.head == "language":
        limits = (recipe.lang2id, recipe.architecture.max_positions)
        return _head_tasks(recipe, *(language_examples(corpus[split], *limits) for split in ("train", "valid")))
    if recipe.translates:
        return _translation_tasks(recipe, corpus["train"], corpus["valid"])
    size = len(tokenizer.encoder)
    tasks = {name: _body_task(recipe, name, corpus["train"], size) for name in recipe.objectives}
    return tasks, _causal_validation(recipe, corpus["valid"]) if recipe.causal else _validation(
        {name: _body_task(recipe, name, corpus["valid"], size) for name in recipe.objectives}
    )


def reader(recipe: Recipe, tokenizer: XLMTokenizer) -> Callable[[str, str], list[int]]:
    """How texts become ids: (text, language) to ids. A model that tells the language reads all by one language's rules,
    as it will when nobody states the language."""
    if recipe.head == "language":
        return lambda text, lang: encode_words(tokenizer, text, BASE_LANGUAGE)
    return partial(encode_words, tokenizer)


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


def _head_tasks(recipe: Recipe, train: list[Example], valid: list[Example]) -> tuple[dict[str, Task], Validation]:
    (name, settings), *_ = recipe.objectives.items()

    def task(examples: list[Example]) -> Task:
        batches = LabelledBatches(examples, settings.batch_tokens, recipe.seed, snippets=name == "language")
        return Task(settings.weight, settings.every, batches, _label_loss)

    return {name: task(train)}, _validation({name: task(valid)})


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
    assert isinstance(model, XLMWithLMHeadModel)
    assert isinstance(batch, Batch)
    return language_model_loss(model, batch)


def _ranking_loss(model: AnyModel, batch: AnyBatch) -> Tensor:
    assert isinstance(model, XLMWithLMHeadModel)
    assert isinstance(batch, PairBatch)
    return ranking_loss(model, batch)


def _label_loss(model: AnyModel, batch: AnyBatch) -> Tensor:
    assert isinstance(model, LabelModel)
    assert isinstance(batch, Batch)
    return label_loss(model, batch)


def _translation_loss(model: AnyModel, batch: AnyBatch, smoothing: float) -> Tensor:
    assert isinstance(model, XLMEncoderDecoder)
    assert isinstance(batch, TranslationBatch)
    return translation_loss(model, batch, smoothing)
