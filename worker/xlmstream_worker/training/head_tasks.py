"""The tasks of heads: what each is trained and validated on, and its loss."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

from torch import Tensor

from xlmstream_worker.xlm import XLMTokenizer

from .answers import made_readings
from .batches import Batch
from .corpus import ANNOTATED, CorpusError, Row, aligned_files, encode_files, read_rows
from .heads import BodyWithHeads
from .labelled_batches import BASE_LANGUAGE, Example, LabelledBatches, entity_examples, language_examples
from .models import AnyModel
from .objectives import LabelModel, label_loss
from .recipe import HEADS, Recipe
from .tag_examples import annotated_examples, ruled_examples
from .tagged_text import TagRules
from .trainer import AnyBatch, Task
from .vocabulary import encode_words


def head_tasks(
    recipe: Recipe, name: str, files: Sequence[Path], tokenizer: XLMTokenizer, cache: Path
) -> tuple[Task, Task]:
    """Training and validation of the objective `name`, which trains a head. `cache`: see `encode_files`."""
    settings = recipe.objectives[name]

    def task(examples: Sequence[Example]) -> Task:
        batches = LabelledBatches(examples, settings.batch_tokens, recipe.seed, snippets=name == "language")
        return Task(settings.weight, settings.every, batches, partial(_label_loss, HEADS[name]))

    train, valid = _examples(recipe, name, files, tokenizer, cache)
    return task(train), task(valid)


def _examples(
    recipe: Recipe, name: str, files: Sequence[Path], tokenizer: XLMTokenizer, cache: Path
) -> tuple[Sequence[Example], Sequence[Example]]:
    """To train on, and held out."""
    languages, limit = recipe.languages, recipe.architecture.max_positions
    if name == "tags":
        parts = [annotated_examples(path, tokenizer, languages, limit) for path in files if path.suffix == ANNOTATED]
        train, valid = (
            [example for part in parts for examples in part[split].values() for example in examples]
            for split in ("train", "test")
        )
        return train, valid
    aligned = aligned_files(files)
    if name == "language":
        corpus = encode_files(aligned, languages, reader(name, tokenizer), cache)
        train, valid = (language_examples(corpus[split], recipe.lang2id, limit) for split in ("train", "valid"))
        return train, valid
    if name == "answers":
        readings = made_readings(with_all_languages(aligned, languages), languages, tokenizer, limit)
        train, valid = ([reading.example for reading in readings[split]] for split in ("train", "valid"))
        return train, valid
    if name == "entities":
        rows = _rows(with_all_languages(aligned, languages), languages)
        labelled = entity_examples(rows, languages, tokenizer, limit)
    else:
        rows = _rows(aligned, languages)
        labelled = ruled_examples(TagRules(rows, languages), rows, tokenizer, limit)
    train, valid = (list(chain(*labelled[split].values())) for split in ("train", "valid"))
    return train, valid


def with_all_languages(files: Sequence[Path], languages: Sequence[str]) -> list[Path]:
    """The files that hold every one of the languages: rules that carry names over to translations need them all."""
    found = [path for path in files if any(len(row.texts) == len(languages) for row in read_rows(path, languages))]
    if not found:
        raise CorpusError(f"none of {', '.join(path.name for path in files)} has all of {', '.join(languages)}")
    return found


def _rows(files: Sequence[Path], languages: Sequence[str]) -> list[Row]:
    return [row for path in files for row in read_rows(path, languages)]


def reader(head: str | None, tokenizer: XLMTokenizer) -> Callable[[str, str], list[int]]:
    """How texts become ids: (text, language) to ids. What tells the language reads all by one language's rules, as it
    will when nobody states the language."""
    if head == "language":
        return lambda text, lang: encode_words(tokenizer, text, BASE_LANGUAGE)
    return partial(encode_words, tokenizer)


def _label_loss(head: str, model: AnyModel, batch: AnyBatch) -> Tensor:
    labels = model.heads[head] if isinstance(model, BodyWithHeads) else model
    assert isinstance(labels, LabelModel)
    assert isinstance(batch, Batch)
    return label_loss(labels, batch)
