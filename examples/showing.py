"""What the demo shows with: text that grows in columns, a bar, and where the time of requests went.

In a terminal things grow in place; in a log file each is written once, when it is whole.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from xlmstream import Timing

WIDEST = 120
GAP = 2
BAR = 40


class Columns:
    """Texts that grow side by side, a column each. Several threads may add to them."""

    def __init__(self, titles: Sequence[str]) -> None:
        self._texts = [""] * len(titles)
        screen = min(WIDEST, shutil.get_terminal_size().columns - 1)
        self._width = max(12, (screen - GAP * (len(titles) - 1)) // len(titles))
        self._titles = [title[: self._width] for title in titles]
        self._lines = 0
        self._lock = threading.Lock()
        self._grows = sys.stdout.isatty()

    def add(self, column: int, text: str) -> None:
        """Write on in one column."""
        with self._lock:
            self._texts[column] += text
            if self._grows:
                self._draw()

    def finish(self) -> None:
        """Show the whole, where it has not grown on the screen."""
        if not self._grows:
            self._draw()

    def _draw(self) -> None:
        columns = [
            [title, *textwrap.wrap(text, self._width)] for title, text in zip(self._titles, self._texts, strict=True)
        ]
        lines = [
            (" " * GAP).join(cell.ljust(self._width) for cell in row).rstrip()
            for row in zip_longest(*columns, fillvalue="")
        ]
        clear = "\x1b[K" if self._grows else ""
        up = f"\x1b[{self._lines}A" if self._lines else ""
        print(up + "".join(f"{line}{clear}\n" for line in lines), end="", flush=True)
        self._lines = len(lines)


class Bar:
    """How far something is. In a log file a line at each quarter."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._grows = sys.stdout.isatty()
        self._quarter = -1

    def show(self, done: int, of: int, more: str = "") -> None:
        """`done` of `of`, and what else to say."""
        full = BAR * done // max(of, 1)
        line = f"  {self._what} [{'#' * full}{'.' * (BAR - full)}] {done}/{of} {more}"
        if self._grows:
            print(f"\r{line}\x1b[K", end="\n" if done == of else "", flush=True)
        elif (quarter := 4 * done // max(of, 1)) > self._quarter:
            self._quarter = quarter
            print(line.rstrip(), flush=True)


@dataclass(frozen=True)
class _Step:
    name: str
    requests: int
    seconds: float
    queue: float
    tokenise: float
    compute: float
    other: float
    together: int

    def cells(self) -> list[str]:
        means = (self.queue, self.tokenise, self.compute, self.other)
        return [
            self.name,
            str(self.requests),
            f"{self.seconds:.2f}",
            *(f"{mean:.1f}" for mean in means),
            str(self.together),
        ]


class Times:
    """Where the time of requests went, step by step."""

    def __init__(self) -> None:
        self._steps: list[_Step] = []

    def note(self, name: str, seconds: float, timings: Iterable[Timing]) -> None:
        """Note and print what one step took, as the caller saw it and as the service accounts for it."""
        found = list(timings)
        queue, tokenise, compute, total = (
            sum(getattr(each, part) for each in found) / len(found) / 1000
            for part in ("queue_us", "tokenize_us", "compute_us", "total_us")
        )
        other = max(total - queue - tokenise - compute, 0.0)
        together = max(each.batch_size for each in found)
        self._steps.append(_Step(name, len(found), seconds, queue, tokenise, compute, other, together))
        print(
            f"  ({len(found)} requests in {seconds:.2f} s; each, in ms: {queue:.1f} queue, {tokenise:.1f} tokenise, "
            f"{compute:.1f} compute, {other:.1f} other)\n"
        )

    def table(self) -> str:
        """All steps."""
        head = ["step", "requests", "seconds", "queue", "tokenise", "compute", "other", "together"]
        lines = [head, *(step.cells() for step in self._steps)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "".join(f"  {_aligned(line, widths)}\n" for line in lines)


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """The first cell to the left, the others to the right."""
    numbers = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
    return "  ".join([cells[0].ljust(widths[0]), *numbers])


class Prose:
    """Sets streamed tokens as a person would write them: the model's tokens are words and signs apart (l' eau , bleue).

    Only spaces are dropped, and each only once the next sign is known, so the text can be shown while it grows.
    """

    def __init__(self) -> None:
        self._last = " "
        self._space = True  # between the prompt and the continuation

    def next(self, text: str) -> str:
        """What of `text` can be shown now."""
        shown = []
        for character in text:
            if character == " ":
                self._space = True
                continue
            if self._space and character not in ",.;:!?)'" and self._last not in "'(¿¡":
                shown.append(" ")
            shown.append(character)
            self._last, self._space = character, False
        return "".join(shown)
