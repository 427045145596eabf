"""From a run directory to a model directory as it is shipped and served: fp16 weights, tokenizer, serving choices."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from xlmstream_worker.xlm import XLMTokenizer, XLMWithLMHeadModel

from .checkpoint import STATE, Progress
from .pipeline import run_of
from .recipe import Recipe, recipe_from, to_document

UNTRAINED_BEGIN_ID = 0


@dataclass(frozen=True)
class Training:
    """How a shipped model came about; `training.json` beside the weights."""

    recipe: Recipe
    progress: Progress


def export_model(run: Path, directory: Path) -> None:
    """Write the best weights of `run` to `directory`.

    The vector of `<s>`, which `</s> X </s>` never shows the model, becomes zero: token types 0, which transformers adds
    as that vector, then change nothing.
    """
    model = XLMWithLMHeadModel.from_pretrained(run / "best")
    with torch.no_grad():
        model.transformer.embeddings.weight[UNTRAINED_BEGIN_ID] = 0
    directory.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(directory)
    XLMTokenizer.from_pretrained(run / "tokenizer").save_pretrained(directory)
    serving = {"input_format": "original", "default_language": default_language(model)}
    _write_json(directory / "xlmstream.json", serving)
    progress = json.loads((run / STATE / "state.json").read_text(encoding="utf-8"))
    _write_json(directory / "training.json", {"recipe": to_document(run_of(run)), "progress": progress})


def read_training(directory: Path) -> Training:
    """What `export_model` noted of the training."""
    values = json.loads((directory / "training.json").read_text(encoding="utf-8"))
    return Training(recipe_from(values["recipe"]), Progress(**values["progress"]))


def default_language(model: XLMWithLMHeadModel) -> str:
    """The language of `config.lang_id`."""
    lang2id: dict[str, int] = model.config.lang2id  # type: ignore[attr-defined]  # a field multilingual models have
    return next(lang for lang, index in lang2id.items() if index == model.config.lang_id)


def _write_json(path: Path, values: object) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
