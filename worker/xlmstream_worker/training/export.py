"""From a run directory to a model directory as it is shipped and served: fp16 weights, tokenizer, serving choices,
how it was trained and the picture of its losses."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from xlmstream_worker.xlm import XLMConfig, XLMEncoderDecoder, XLMTokenizer
from xlmstream_worker.xlm.head import XLMModelWithHead
from xlmstream_worker.xlm.shared_body import body_directory

from .checkpoint import STAGES, STATE, Progress, Stage, read_stages, stages_document, stages_of
from .curve import write_curve
from .heads import head_directory
from .labelled_batches import BASE_LANGUAGE
from .models import CLASSES
from .pipeline import run_of
from .recipe import HEADS, LANGUAGE_BLIND, Recipe, recipe_from, to_document

TRAINING = "training.json"
CURVE = "curve.svg"
UNTRAINED_BEGIN_ID = 0


@dataclass(frozen=True)
class Training:
    """How a shipped model came about: `training.json` and `stages.json` beside the weights.

    `before`: the same of the weights it started from, where these were an exported model. `head`: the objective of a
    head that was trained together with others and the body.
    """

    recipe: Recipe
    progress: Progress
    stages: list[Stage]
    before: "Training | None" = None
    head: str | None = None

    @property
    def name(self) -> str:
        """Of the model."""
        return f"{self.recipe.name}-{HEADS[self.head]}" if self.head else self.recipe.name

    @property
    def objective(self) -> str | None:
        """What its labels were trained with; None for a language model or a translation model."""
        return self.head or self.recipe.head


def export_model(run: Path, directory: Path) -> None:
    """Write the best weights of `run` to `directory`, and heads that were trained together with a body to directories
    beside it, named `<directory>-<head>`.

    The vector of `<s>`, which `</s> X </s>` never shows the model, becomes zero: token types 0, which transformers adds
    as that vector, then change nothing.
    """
    recipe = run_of(run)
    kind = XLMEncoderDecoder if recipe.translates else CLASSES[recipe.head]
    model = kind.from_pretrained(run / "best")
    assert isinstance(model, XLMModelWithHead | XLMEncoderDecoder)
    bodies = (model.transformer,) if isinstance(model, XLMModelWithHead) else (model.encoder, model.decoder)
    with torch.no_grad():
        for body in bodies:
            body.embeddings.weight[UNTRAINED_BEGIN_ID] = 0
    model.half().save_pretrained(directory)
    XLMTokenizer.from_pretrained(run / "tokenizer").save_pretrained(directory)
    _write_serving(directory, recipe)
    _write_notes(run, directory, recipe)
    for objective in () if recipe.head else recipe.heads:
        own = head_directory(directory, HEADS[objective])
        head = CLASSES[objective].from_pretrained(head_directory(run / "best", HEADS[objective]))
        head.config.finetuning_task = objective
        head.half().save_head(own, directory)
        _write_serving(own, recipe, objective)


def _write_serving(directory: Path, recipe: Recipe, head: str | None = None) -> None:
    serving = {"input_format": "original"}
    if recipe.states_languages and head not in LANGUAGE_BLIND:
        serving["default_language"] = BASE_LANGUAGE if BASE_LANGUAGE in recipe.languages else min(recipe.languages)
    _write_json(directory / "xlmstream.json", serving)


def _write_notes(run: Path, directory: Path, recipe: Recipe) -> None:
    """How the weights came about."""
    write_curve(run, directory / CURVE, recipe.name)
    shutil.copy(run / STAGES, directory / STAGES)
    progress = json.loads((run / STATE / "state.json").read_text(encoding="utf-8"))
    origins = {name: Path(getattr(recipe, name)).name for name in ("init", "init_decoder")}
    notes: dict[str, object] = {"recipe": to_document(recipe) | origins, "progress": progress}
    if recipe.init and (Path(recipe.init) / TRAINING).is_file():
        notes["before"] = json.loads((Path(recipe.init) / TRAINING).read_text(encoding="utf-8")) | {
            "stages": stages_document(read_stages(Path(recipe.init)))
        }
    _write_json(directory / TRAINING, notes)


def read_training(directory: Path) -> Training:
    """What `export_model` noted of the training. A head's is its body's."""
    if body := body_directory(directory):
        return replace(read_training(body), head=XLMConfig.from_pretrained(directory).finetuning_task)
    notes = json.loads((directory / TRAINING).read_text(encoding="utf-8"))
    return _training(notes, read_stages(directory))


def _training(notes: dict[str, Any], stages: list[Stage]) -> Training:
    before = notes.get("before")
    return Training(
        recipe_from(notes["recipe"]),
        Progress(**notes["progress"]),
        stages,
        _training(before, stages_of(before["stages"])) if before else None,
    )


def _write_json(path: Path, values: object) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
