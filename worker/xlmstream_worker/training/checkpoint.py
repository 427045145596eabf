"""The state of a training run on disk: enough to continue bit for bit. Safetensors and JSON, no pickle.

    RUN/state/model.safetensors       parameters
    RUN/state/optimizers.safetensors  moments, named `<optimizer>.<parameter index>.<what>`
    RUN/state/state.json              step, best validation loss, and what the run has used so far
    RUN/stages.json                   schedules and objectives it was trained by (for the record; not needed to resume)

A checkpoint is written beside the old one and then takes its place: a crash leaves one or the other.
"""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from .recipe import Objective, Recipe, Schedule

STATE = "state"
STAGES = "stages.json"


@dataclass
class Progress:
    """Where a run stands. `step` counts finished optimizer steps; `best_loss` is the lowest validation loss so far, in
    nats; `seconds` is wall-clock time spent in steps, over all sittings."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_loss: float = float("inf")
    best_step: int = 0


@dataclass(frozen=True)
class Stage:
    """What a run was trained by from step `from_step` on."""

    from_step: int
    schedule: Schedule
    objectives: dict[str, Objective]


def save_state(run: Path, model: nn.Module, optimizers: dict[str, Optimizer], progress: Progress) -> None:
    """Write RUN/state, replacing the one before."""
    fresh, current, old = run / f"{STATE}.new", run / STATE, run / f"{STATE}.old"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    save_file({name: value.contiguous() for name, value in model.named_parameters()}, fresh / "model.safetensors")
    save_file(_moments(optimizers), fresh / "optimizers.safetensors")
    (fresh / "state.json").write_text(json.dumps(dataclasses.asdict(progress), indent=2) + "\n", encoding="utf-8")
    if current.exists():
        shutil.rmtree(old, ignore_errors=True)
        current.rename(old)
    fresh.rename(current)
    shutil.rmtree(old, ignore_errors=True)


def load_state(run: Path, model: nn.Module, optimizers: dict[str, Optimizer]) -> Progress:
    """Put the saved state into `model` and `optimizers`; a run without one starts at step 0."""
    folder = run / STATE
    if not folder.exists():
        # The crash fell between the two renames of save_state.
        folder = run / f"{STATE}.old"
    if not folder.exists():
        return Progress()
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    moments = load_file(folder / "optimizers.safetensors")
    for name, optimizer in optimizers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in moments.items():
            owner, index, what = key.split(".")
            if owner == name:
                state.setdefault(int(index), {})[what] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return Progress(**json.loads((folder / "state.json").read_text(encoding="utf-8")))


def note_stage(run: Path, step: int, recipe: Recipe) -> bool:
    """Write down in RUN/stages.json what holds from `step` on: a resumed run may be given another recipe. Returns
    whether it was given other objectives than before."""
    run.mkdir(parents=True, exist_ok=True)
    stages = [stage for stage in read_stages(run) if stage.from_step < step]
    fresh = Stage(step, recipe.schedule, recipe.objectives)
    others = bool(stages) and stages[-1].objectives != fresh.objectives
    if not stages or dataclasses.replace(stages[-1], from_step=step) != fresh:
        stages.append(fresh)
    (run / STAGES).write_text(json.dumps(stages_document(stages), indent=2) + "\n", encoding="utf-8")
    return others


def read_stages(run: Path) -> list[Stage]:
    """The stages of a run (or of an exported model), in their order."""
    path = run / STAGES
    return stages_of(json.loads(path.read_text(encoding="utf-8")) if path.is_file() else [])


def stages_document(stages: Sequence[Stage]) -> list[dict[str, object]]:
    """Plain values for a JSON file."""
    return [dataclasses.asdict(stage) for stage in stages]


def stages_of(entries: Sequence[dict[str, Any]]) -> list[Stage]:
    """The inverse of `stages_document`."""
    return [
        Stage(
            entry["from_step"],
            Schedule(**entry["schedule"]),
            {name: Objective(**values) for name, values in entry["objectives"].items()},
        )
        for entry in entries
    ]


def _moments(optimizers: dict[str, Optimizer]) -> dict[str, Tensor]:
    return {
        f"{name}.{index}.{what}": torch.as_tensor(value).contiguous()
        for name, optimizer in optimizers.items()
        for index, entries in optimizer.state_dict()["state"].items()
        for what, value in entries.items()
    }
