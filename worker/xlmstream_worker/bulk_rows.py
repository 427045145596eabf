"""Which bulk generations run beside those that somebody waits for. Pure decisions: no engine, no clock.

Alone, bulk work takes all slots. Where others come, it leaves what they need, and so much more that a step takes them
little longer than without it; what leaves goes on later from the token where it stopped. An eighth of the slots is its
own for as long as it lasts; where there are too few for that, or one request of others wants them all, patience gives
it a turn that nobody takes away.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

Work = TypeVar("Work")

# Steps that bulk work waits without a single row running before it gets a turn of its own.
PATIENCE_STEPS = 128
# Steps after the last of others before bulk work spreads again: rows that come and go compute their prompts again.
QUIET_STEPS = 64
# A step with bulk rows beside those of others may take so many times as long as one without.
LONGER = 1.5
# How much an older step counts less than the next one.
_FORGET = 0.98


def own_slots(slots: int) -> int:
    """Of so many slots, those that others leave to bulk work."""
    return slots // 8


@dataclass(slots=True, eq=False)
class Entry(Generic[Work]):
    """One bulk generation, waiting or running.

    Attributes:
        rows: slots that it needs.
        stays: its turn is not taken away.
    """

    key: str
    rows: int
    work: Work
    stays: bool = False


@dataclass(frozen=True, slots=True)
class Change(Generic[Work]):
    """What to do before a step: first take out what leaves, which waits again, then let in what joins."""

    leaving: tuple[Entry[Work], ...] = ()
    joining: tuple[Entry[Work], ...] = ()


class StepCosts:
    """How long a step takes by the number of its rows: a line through what was measured, the latest counting most."""

    def __init__(self) -> None:
        self._weight = self._rows = self._seconds = self._squares = self._products = 0.0

    def note(self, rows: int, seconds: float) -> None:
        """A step of so many rows, and of nothing else, took so long."""
        self._weight = self._weight * _FORGET + 1
        self._rows = self._rows * _FORGET + rows
        self._seconds = self._seconds * _FORGET + seconds
        self._squares = self._squares * _FORGET + rows * rows
        self._products = self._products * _FORGET + rows * seconds

    def beside(self, others: int) -> int:
        """How many rows may join `others` in a step that takes `LONGER` times as long; 0 where nothing is known."""
        spread = self._weight * self._squares - self._rows**2
        if spread <= 1e-9 * self._weight * self._squares:
            return 0
        a_row = (self._weight * self._products - self._rows * self._seconds) / spread
        empty = (self._seconds - a_row * self._rows) / self._weight
        alone = empty + a_row * others
        # Below, the line says nothing of use: then a row costs no less than if steps cost nothing but their rows.
        a_row = max(a_row, 1e-9)
        return int((LONGER - 1) * max(alone, a_row * others) / a_row)


class BulkRows(Generic[Work]):
    """The bulk generations of one engine."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._own = own_slots(slots)
        self._waiting: deque[Entry[Work]] = deque()
        self._running: dict[str, Entry[Work]] = {}  # the oldest first
        self._patience = PATIENCE_STEPS
        self._quiet_steps = QUIET_STEPS

    @property
    def waiting(self) -> int:
        """Generations that could join."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Generations that have joined."""
        return len(self._running)

    def add(self, key: str, rows: int, work: Work) -> None:
        """Let a generation wait for its turn. One that needs more rows than there are gets all: it is the engine that
        refuses it."""
        self._waiting.append(Entry(key, min(rows, self._slots), work))

    def drop(self, key: str) -> None:
        """A generation has ended or is not wanted any more; an unknown key is no error."""
        if self._running.pop(key, None) is None:
            self._waiting = deque(entry for entry in self._waiting if entry.key != key)

    def next(self, spare_slots: int, others: int, beside: int) -> Change[Work]:
        """Decide for one step.

        Args:
            spare_slots: those that no row holds and no request in the engine waits for; below 0: so many are lacking.
            others: rows of other work, running or waiting in the engine.
            beside: bulk rows that a step with those of others has time for.
        """
        self._quiet_steps = 0 if others else self._quiet_steps + 1
        quiet = self._quiet_steps >= QUIET_STEPS
        most = self._slots if quiet else max(beside, self._own)
        leaving = self._leaving(-spare_slots, most)
        joining = [] if leaving else self._joining(spare_slots, most, quiet)
        if not joining and self._waiting and not self._running:
            self._patience -= 1
            if self._patience <= 0:
                first = self._waiting.popleft()
                first.stays = True
                self._running[first.key] = first
                joining = [first]
        if self._running or not self._waiting:
            self._patience = PATIENCE_STEPS
        self._waiting.extendleft(leaving)
        return Change(tuple(leaving), tuple(joining))

    @property
    def _held(self) -> int:
        return sum(entry.rows for entry in self._running.values())

    def _leaving(self, lacking_slots: int, most: int) -> list[Entry[Work]]:
        """The newest, while slots are lacking and more than their own are held, or while several hold more than
        `most`."""
        leaving: list[Entry[Work]] = []
        held = self._held
        for entry in reversed(self._running.values()):
            several = len(self._running) - len(leaving) > 1
            if not ((lacking_slots > 0 and held > self._own) or (several and held > most)):
                break
            if not entry.stays:
                leaving.append(entry)
                lacking_slots -= entry.rows
                held -= entry.rows
        for entry in leaving:
            del self._running[entry.key]
        return leaving

    def _joining(self, spare_slots: int, most: int, quiet: bool) -> list[Entry[Work]]:
        """The first in line, as far as slots are free. Beside others one at a time, as each has a prompt to compute,
        and beyond their own only while some slots stay free for what comes next."""
        joining: list[Entry[Work]] = []
        kept_free = 0 if quiet else self._own
        held = self._held
        while self._waiting and (quiet or not joining):
            rows = self._waiting[0].rows
            own = held + rows <= self._own
            if rows > spare_slots or not (own or rows <= spare_slots - kept_free) or (held and held + rows > most):
                break
            entry = self._waiting.popleft()
            self._running[entry.key] = entry
            joining.append(entry)
            spare_slots -= rows
            held += rows
        return joining
