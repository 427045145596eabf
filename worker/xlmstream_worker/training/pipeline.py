"""From a recipe and files of text to a trained model in a run directory.

RUN/recipe.json      what is trained           RUN/log.jsonl   losses over the steps
RUN/tokenizer/       the vocabulary            RUN/curve.svg   the same as a picture
RUN/encoded.npz      the files as ids          RUN/best/       weights with the lowest validation loss
RUN/state/           to resume from (see `checkpoint`)
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from xlmstream_worker.xlm import XLMConfig, XLMTokenizer, XLMWithLMHeadModel

from .batches import Batch, CausalBatches, PairBatch, causal_rows
from .checkpoint import Progress
from .corpus import Aligned, encode_files, read_rows
from .curve import write_curve
from .masked_batches import MaskedBatches, RankingBatches
from .objectives import language_model_loss, ranking_loss
from .recipe import Recipe, RecipeError, recipe_from, to_document
from .trainer import AnyBatch, NumberedBatches, Sitting, Task, mean_loss, train
from .vocabulary import count_words, encode_words, make_tokenizer

VALIDATION_BATCHES = 40
BASE_LANGUAGE = "en"


def run_recipe(
    recipe: Recipe, files: Sequence[Path], run: Path, sitting: Sitting, tokenizer_from: Path | None = None
) -> Progress:
    """Train, or continue to train, in the directory `run`.

    `tokenizer_from`: a directory with a vocabulary to use; without it a new run learns one from `files`.
    """
    tokenizer = _tokenizer(recipe, files, run, tokenizer_from)
    (run / "recipe.json").write_text(json.dumps(to_document(recipe), indent=2) + "\n", encoding="utf-8")
    corpus = encode_files(files, recipe.languages, partial(encode_words, tokenizer), run / "encoded.npz")
    model = new_model(recipe, len(tokenizer.encoder)).to(sitting.device)
    tasks = {name: _task(recipe, name, corpus["train"], len(tokenizer.encoder)) for name in recipe.objectives}
    progress = train(recipe, model, tasks, _validation(recipe, corpus["valid"], len(tokenizer.encoder)), run, sitting)
    write_curve(run)
    return progress


def learn_tokenizer(recipe: Recipe, files: Sequence[Path], directory: Path) -> XLMTokenizer:
    """A vocabulary from the distinct training sentences of all files, each counted once."""
    sentences = {
        (text, lang)
        for path in files
        for row in read_rows(path, recipe.languages)
        if row.split == "train"
        for lang, text in row.texts.items()
    }
    positions = recipe.architecture.max_positions
    return make_tokenizer(count_words(sorted(sentences)), recipe.vocabulary_size, recipe.lang2id, positions, directory)


def run_of(directory: Path) -> Recipe:
    """The recipe a run directory was made from."""
    return recipe_from(json.loads((directory / "recipe.json").read_text(encoding="utf-8")))


def new_model(recipe: Recipe, vocabulary_size: int) -> XLMWithLMHeadModel:
    """The body with its language-model head: fresh weights drawn from the seed, or those of `recipe.init`."""
    shape = recipe.architecture
    base = recipe.lang2id.get(BASE_LANGUAGE, 0)
    config = XLMConfig(
        vocab_size=vocabulary_size,
        emb_dim=shape.emb_dim,
        n_layers=shape.n_layers,
        n_heads=shape.n_heads,
        dropout=shape.dropout,
        # Dropout inside attention would rule out the fused kernel.
        attention_dropout=0.0,
        causal=recipe.causal,
        n_langs=len(recipe.languages),
        max_position_embeddings=shape.max_positions,
        embed_init_std=shape.emb_dim**-0.5,
        lang2id=recipe.lang2id,
        id2lang={str(index): lang for lang, index in recipe.lang2id.items()},
        lang_id=base,
        mask_token_id=5,
    )
    if recipe.init:
        return XLMWithLMHeadModel.from_pretrained(recipe.init, config=config)
    torch.manual_seed(recipe.seed)
    return XLMWithLMHeadModel(config)


def _tokenizer(recipe: Recipe, files: Sequence[Path], run: Path, source: Path | None) -> XLMTokenizer:
    own = run / "tokenizer"
    if not own.exists():
        if source is None:
            return learn_tokenizer(recipe, files, own)
        own.mkdir(parents=True)
        for path in source.iterdir():
            if path.name in ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"):
                shutil.copy(path, own)
    return XLMTokenizer.from_pretrained(own)


def _task(recipe: Recipe, name: str, corpus: Aligned, vocabulary_size: int) -> Task:
    settings = recipe.objectives[name]
    common = (corpus, recipe.lang2id, recipe.architecture.max_positions)
    batches: NumberedBatches
    match name:
        case "clm":
            batches = CausalBatches(*common, settings.batch_tokens, recipe.seed)
        case "mlm" | "tlm":
            sizes = (settings.batch_tokens, vocabulary_size, recipe.seed)
            batches = MaskedBatches(*common, *sizes, pairs=name == "tlm")
        case "ranking":
            batches = RankingBatches(*common, settings.batch_pairs, recipe.seed)
        case _:
            raise RecipeError(f"unknown objective {name}")
    loss = _ranking_loss if name == "ranking" else _lm_loss
    return Task(settings.weight, settings.every, batches, loss)


def _lm_loss(model: XLMWithLMHeadModel, batch: AnyBatch) -> Tensor:
    assert isinstance(batch, Batch)
    return language_model_loss(model, batch)


def _ranking_loss(model: XLMWithLMHeadModel, batch: AnyBatch) -> Tensor:
    assert isinstance(batch, PairBatch)
    return ranking_loss(model, batch)


def _validation(
    recipe: Recipe, corpus: Aligned, vocabulary_size: int
) -> Callable[[XLMWithLMHeadModel], Mapping[str, float]]:
    """Held-out losses: for a causal body per language over all of it, else per objective over the first batches."""
    if recipe.causal:
        width = recipe.architecture.max_positions
        rows = {
            lang: causal_rows(corpus, lang, recipe.lang2id[lang], width)
            for lang in recipe.languages
            if len(corpus[lang].ids)
        }
        return lambda model: {lang: mean_loss(model, batches, _lm_loss) for lang, batches in rows.items()}
    tasks = {name: _task(recipe, name, corpus, vocabulary_size) for name in recipe.objectives}
    return lambda model: {
        name: mean_loss(model, (task.batches[number] for number in range(VALIDATION_BATCHES)), task.loss)
        for name, task in tasks.items()
    }
