"""The training loop: one optimizer step after another, with validation, checkpoints and a log.

Knows objectives as (batches, loss) and nothing of text. Dropout is drawn from (seed, step), so that stopping and
resuming between any two steps changes nothing.
"""

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Optimizer

from .batches import Batch, PairBatch
from .checkpoint import Progress, load_state, note_stage, save_state
from .models import AnyModel
from .optimizer import build_optimizers, clip_gradients, learning_rate, set_learning_rate
from .recipe import Recipe
from .translation_batches import TranslationBatch

AnyBatch = Batch | PairBatch | TranslationBatch
CPU = torch.device("cpu")
# Further apart than any run has steps, so that no two seeds share a step's dropout.
SEED_STRIDE = 1_000_003


class NumberedBatches(Protocol):
    """Training batches by number, without end."""

    def __getitem__(self, number: int) -> AnyBatch: ...


@dataclass(frozen=True)
class Task:
    """One term of the loss: its weight, that it takes part in every n-th step, where its batches come from, what is
    computed on them."""

    weight: float
    every: int
    batches: NumberedBatches
    loss: Callable[[AnyModel, AnyBatch], Tensor]


@dataclass(frozen=True)
class StepReport:
    """What one step did: losses in nats by objective, before their weights."""

    step: int
    steps: int
    lr: float
    losses: Mapping[str, float]
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Sitting:
    """How this process trains, as against what: none of it changes the result but `bfloat16`.

    `until` is the step to stop at (default: the last); `max_seconds` and `interrupted` stop earlier. However a sitting
    ends, it leaves a checkpoint.
    """

    device: torch.device = CPU
    bfloat16: bool = False
    until: int | None = None
    max_seconds: float = float("inf")
    interrupted: Callable[[], bool] = lambda: False
    save_every_s: float = 120.0
    report: Callable[[StepReport], None] = lambda report: None


def train(
    recipe: Recipe,
    model: AnyModel,
    tasks: Mapping[str, Task],
    validate: Callable[[AnyModel], Mapping[str, float]],
    run: Path,
    sitting: Sitting,
) -> Progress:
    """Train `model` from the state in `run`, or from step 0, and leave it at the last step reached.

    `validate` returns losses in nats by name; their mean decides which weights are kept in RUN/best.
    RUN/log.jsonl gets one line every ten steps and one per validation; RUN/stages.json says what recipe held when.
    """
    optimizers = build_optimizers(model, recipe.schedule)
    progress = load_state(run, model, optimizers)
    if note_stage(run, progress.step, recipe):
        progress.best_loss = math.inf  # validation losses of other objectives are no measure for these
    last = min(recipe.schedule.steps, sitting.until or recipe.schedule.steps)
    sat_down = saved = time.monotonic()
    log = _Log(run, progress.step)
    while progress.step < last and time.monotonic() - sat_down < sitting.max_seconds and not sitting.interrupted():
        report = _step(recipe, model, tasks, optimizers, progress, sitting)
        sitting.report(report)
        log.step(report)
        if progress.step % recipe.validate_every == 0 or progress.step == recipe.schedule.steps:
            _validate(model, validate, _arithmetic(recipe, sitting), run, progress, log)
        if time.monotonic() - saved > sitting.save_every_s:
            save_state(run, model, optimizers, progress)
            saved = time.monotonic()
    save_state(run, model, optimizers, progress)
    return progress


def _step(
    recipe: Recipe,
    model: AnyModel,
    tasks: Mapping[str, Task],
    optimizers: dict[str, Optimizer],
    progress: Progress,
    sitting: Sitting,
) -> StepReport:
    """One optimizer step on one batch of each objective whose turn it is; moves `progress` on."""
    began = time.monotonic()
    torch.manual_seed(recipe.seed * SEED_STRIDE + progress.step)
    lr = learning_rate(recipe.schedule, progress.step)
    set_learning_rate(optimizers, lr)
    model.train()
    losses: dict[str, float] = {}
    for name, task in tasks.items():
        if progress.step % task.every:
            continue
        batch = task.batches[progress.step // task.every].to(sitting.device)
        with _arithmetic(recipe, sitting):
            loss = task.loss(model, batch)
        (task.weight * loss).backward()  # type: ignore[no-untyped-call]
        losses[name] = loss.item()
        progress.tokens += batch.tokens
    clip_gradients(model, recipe.schedule.clip_norm)
    for optimizer in optimizers.values():
        optimizer.step()
        optimizer.zero_grad()
    progress.step += 1
    progress.seconds += time.monotonic() - began
    return StepReport(progress.step, recipe.schedule.steps, lr, losses, progress.tokens, progress.seconds)


@contextmanager
def _arithmetic(recipe: Recipe, sitting: Sitting) -> Iterator[None]:
    """How forward calls compute: in which precision, and with which attention.

    On CPUs the fused attention takes twice the time of the plain one for the backward pass of many short rows, which
    is what masked bodies train on.
    """
    plain = sitting.device.type == "cpu" and not recipe.causal
    with (
        torch.autocast(sitting.device.type, torch.bfloat16, enabled=sitting.bfloat16),
        sdpa_kernel(SDPBackend.MATH) if plain else nullcontext(),
    ):
        yield


def _validate(
    model: AnyModel,
    validate: Callable[[AnyModel], Mapping[str, float]],
    arithmetic: AbstractContextManager[None],
    run: Path,
    progress: Progress,
    log: "_Log",
) -> None:
    model.eval()
    with torch.no_grad(), arithmetic:
        losses = validate(model)
    log.validation(progress, losses)
    mean = sum(losses.values()) / len(losses)
    if mean < progress.best_loss:
        progress.best_loss, progress.best_step = mean, progress.step
        model.save_pretrained(run / "best")


class _Log:
    """RUN/log.jsonl. Lines after the resumed step belong to work that a crash lost, and are dropped."""

    EVERY = 10

    def __init__(self, run: Path, step: int) -> None:
        self._path = run / "log.jsonl"
        self._window: list[Mapping[str, float]] = []
        run.mkdir(parents=True, exist_ok=True)
        kept = [line for line in read_log(run) if _step_of(line) <= step]
        self._path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

    def step(self, report: StepReport) -> None:
        """Every ten steps: the mean losses since the line before."""
        self._window.append(report.losses)
        if report.step % self.EVERY == 0:
            means = _means(self._window)
            line = {"step": report.step, "lr": report.lr, "tokens": report.tokens, "seconds": round(report.seconds, 2)}
            self._append(line | {"train": means})
            self._window.clear()

    def validation(self, progress: Progress, losses: Mapping[str, float]) -> None:
        """The losses on held-out text after this step."""
        self._append({"step": progress.step, "tokens": progress.tokens, "valid": dict(losses)})

    def _append(self, line: Mapping[str, object]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _means(losses: list[Mapping[str, float]]) -> dict[str, float]:
    """By objective, over the steps in which it took part."""
    values: defaultdict[str, list[float]] = defaultdict(list)
    for entry in losses:
        for name, value in entry.items():
            values[name].append(value)
    return {name: sum(entries) / len(entries) for name, entries in values.items()}


def read_log(run: Path) -> list[dict[str, object]]:
    """The lines of RUN/log.jsonl, oldest first; none if there is no log."""
    path = run / "log.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _step_of(line: Mapping[str, object]) -> int:
    step = line["step"]
    assert isinstance(step, int)
    return step


def mean_loss(model: AnyModel, batches: Iterable[AnyBatch], loss: Callable[[AnyModel, AnyBatch], Tensor]) -> float:
    """Mean over all targets of all batches, in nats."""
    total, count = 0.0, 0
    for batch in batches:
        targets = _targets(batch)
        total += loss(model, batch.to(model.device)).item() * targets
        count += targets
    return total / count


def _targets(batch: AnyBatch) -> int:
    if isinstance(batch, PairBatch):
        return len(batch.left.ids)
    asked = batch.target.targets if isinstance(batch, TranslationBatch) else batch.targets
    return int((asked >= 0).sum())
