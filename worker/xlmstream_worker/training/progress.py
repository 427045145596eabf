"""Show a training run as it goes: a live bar in a terminal with `rich`, else a line every so often."""

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .trainer import StepReport

LINE_EVERY_S = 15.0


@contextmanager
def shown_progress(name: str) -> Iterator[Callable[[StepReport], None]]:
    """What to call after each step."""
    if sys.stderr.isatty() and importlib.util.find_spec("rich"):
        with _bar(name) as report:
            yield report
    else:
        yield _Lines(name)


def describe(report: StepReport) -> str:
    """Losses, speed and time left of a run, in one line."""
    losses = " ".join(f"{name} {loss:.3f}" for name, loss in report.losses.items())
    left_s = report.seconds / report.step * (report.steps - report.step)
    return f"{losses}  lr {report.lr:.1e}  {report.tokens / report.seconds:,.0f} tokens/s  {_clock(left_s)} left"


class _Lines:
    def __init__(self, name: str) -> None:
        self._name = name
        self._next = 0.0

    def __call__(self, report: StepReport) -> None:
        if time.monotonic() >= self._next or report.step == report.steps:
            self._next = time.monotonic() + LINE_EVERY_S
            print(f"{self._name} {report.step}/{report.steps}  {describe(report)}", file=sys.stderr, flush=True)


@contextmanager
def _bar(name: str) -> Iterator[Callable[[StepReport], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[what]}"))
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=None, what="")
        yield lambda report: bar.update(task, completed=report.step, total=report.steps, what=describe(report))


def _clock(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"
