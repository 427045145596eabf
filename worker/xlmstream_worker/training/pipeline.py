"""From a recipe and files of text to a trained model in a run directory.

RUN/recipe.json      what is trained           RUN/log.jsonl   losses over the steps
RUN/tokenizer/       the vocabulary            RUN/curve.svg   the same as a picture
RUN/encoded.npz      the files as ids          RUN/best/       weights with the lowest validation loss
RUN/state/           to resume from (see `checkpoint`)
"""

import json
from collections.abc import Sequence
from pathlib import Path

from xlmstream_worker.xlm import XLMTokenizer

from .bpe import VocabularyError
from .checkpoint import Progress
from .corpus import aligned_files, read_rows
from .curve import write_curve
from .models import new_model
from .recipe import Recipe, RecipeError, recipe_from, to_document
from .tasks import build_tasks
from .trainer import Sitting, train
from .vocabulary import count_words, cut_tokenizer, make_tokenizer

# The last is written last: a directory that has it is whole.
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json")


def run_recipe(
    recipe: Recipe, files: Sequence[Path], run: Path, sitting: Sitting, tokenizer_from: Path | None = None
) -> Progress:
    """Train, or continue to train, in the directory `run`.

    `tokenizer_from`: a directory with a vocabulary to use, cut to the recipe's size where it is larger; without it a
    new run learns one from `files`.
    """
    tokenizer = _tokenizer(recipe, files, run, tokenizer_from)
    (run / "recipe.json").write_text(json.dumps(to_document(recipe), indent=2) + "\n", encoding="utf-8")
    tasks, validate = build_tasks(recipe, files, tokenizer, run / "encoded.npz")
    model = new_model(recipe, tokenizer).to(sitting.device)
    progress = train(recipe, model, tasks, validate, run, sitting)
    write_curve(run, run / "curve.svg", recipe.name)
    return progress


def learn_tokenizer(recipe: Recipe, files: Sequence[Path], directory: Path) -> XLMTokenizer:
    """A vocabulary from the distinct training sentences of all files, each counted once."""
    sentences = {
        (text, lang)
        for path in aligned_files(files)
        for row in read_rows(path, recipe.languages)
        if row.split == "train"
        for lang, text in row.texts.items()
    }
    words, positions = count_words(sorted(sentences)), recipe.architecture.max_positions
    try:
        return make_tokenizer(words, recipe.vocabulary_size, recipe.lang2id, positions, directory)
    except VocabularyError as error:
        raise RecipeError(f"{recipe.name}: {error}") from error


def run_of(directory: Path) -> Recipe:
    """The recipe a run directory was made from."""
    return recipe_from(json.loads((directory / "recipe.json").read_text(encoding="utf-8")))


def _tokenizer(recipe: Recipe, files: Sequence[Path], run: Path, source: Path | None) -> XLMTokenizer:
    own = run / "tokenizer"
    if not (own / TOKENIZER_FILES[-1]).exists():
        if source is None:
            return learn_tokenizer(recipe, files, own)
        cut_tokenizer(source, recipe.vocabulary_size, own)
    return XLMTokenizer.from_pretrained(own)
