"""From a run directory to a model directory as it is shipped and served: fp16 weights, tokenizer, serving choices,
how it was trained and the picture of its losses."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from xlmstream_worker.xlm import XLMTokenizer
from xlmstream_worker.xlm.head import XLMModelWithHead

from .checkpoint import STAGES, STATE, Progress, Stage, read_stages
from .curve import write_curve
from .models import BASE_LANGUAGE, CLASSES
from .pipeline import run_of
from .recipe import Recipe, recipe_from, to_document

UNTRAINED_BEGIN_ID = 0


@dataclass(frozen=True)
class Training:
    """How a shipped model came about: `training.json` and `stages.json` beside the weights."""

    recipe: Recipe
    progress: Progress
    stages: list[Stage]


def export_model(run: Path, directory: Path) -> None:
    """Write the best weights of `run` to `directory`.

    The vector of `<s>`, which `</s> X </s>` never shows the model, becomes zero: token types 0, which transformers adds
    as that vector, then change nothing.
    """
    recipe = run_of(run)
    model = CLASSES[recipe.head].from_pretrained(run / "best")
    assert isinstance(model, XLMModelWithHead)
    with torch.no_grad():
        model.transformer.embeddings.weight[UNTRAINED_BEGIN_ID] = 0
    directory.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(directory)
    XLMTokenizer.from_pretrained(run / "tokenizer").save_pretrained(directory)
    serving = {"input_format": "original"}
    if not recipe.head:
        serving["default_language"] = BASE_LANGUAGE if BASE_LANGUAGE in recipe.languages else min(recipe.languages)
    _write_json(directory / "xlmstream.json", serving)
    write_curve(run, directory / "curve.svg", recipe.name)
    shutil.copy(run / STAGES, directory / STAGES)
    progress = json.loads((run / STATE / "state.json").read_text(encoding="utf-8"))
    _write_json(directory / "training.json", {"recipe": to_document(recipe), "progress": progress})


def read_training(directory: Path) -> Training:
    """What `export_model` noted of the training."""
    values = json.loads((directory / "training.json").read_text(encoding="utf-8"))
    return Training(recipe_from(values["recipe"]), Progress(**values["progress"]), read_stages(directory))


def _write_json(path: Path, values: object) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
