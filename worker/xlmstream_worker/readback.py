"""Bringing what was chosen from the device to the host, without making either wait for the other.

With `late`, a step hands out what the step before it computed, so that the device is never idle while the host reads;
the engine then learns of an end one step late, and drops the token that was computed in between.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .beam import BeamSearch
from .choice import Choice, Plan
from .lanes import Row


@dataclass(frozen=True, slots=True)
class Launch:
    """A batch whose tokens have been chosen on the device.

    `rows` and, per row, `indices`, which token of the candidate it is; `reporting`, the places of the rows that report
    log-probabilities.
    """

    rows: tuple[Row, ...]
    indices: tuple[int, ...]
    choice: Choice
    reporting: tuple[int, ...]
    searches: tuple[BeamSearch, ...]

    @classmethod
    def of(cls, rows: tuple[Row, ...], choice: Choice, plan: Plan, searches: tuple[BeamSearch, ...]) -> Launch:
        """To be made before the rows count the token as produced."""
        return cls(rows, tuple(row.produced for row in rows), choice, plan.reporting, searches)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The same on the host: per row an id, and its log-probabilities if asked for."""

    launch: Launch
    ids: list[int]
    logprobs: dict[int, float]
    """By place in the batch."""
    top_logprobs: dict[int, tuple[tuple[int, float], ...]]
    ended: tuple[BeamSearch, ...]
    """Searches of the batch that are done or have failed."""


class Readback:
    def __init__(self, device: torch.device, *, late: bool) -> None:
        self._device, self._late = device, late
        self._sent: list[tuple[Launch, list[Tensor], torch.cuda.Event | None]] = []
        self._fresh = 0

    @property
    def outstanding(self) -> bool:
        return bool(self._sent)

    def send(self, launch: Launch) -> None:
        """Start copying to the host."""
        choice = launch.choice
        parts = (choice.ids, choice.logprobs, choice.top_logprobs, choice.top_ids)
        tensors = [tensor for tensor in parts if tensor is not None]
        tensors += [torch.stack([search.done, search.failed]) for search in launch.searches]
        event = None
        if self._device.type == "cuda":
            tensors = [_to_pinned(tensor) for tensor in tensors]
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch has no types for it
            event.record(torch.cuda.current_stream(self._device))
        self._sent.append((launch, tensors, event))
        self._fresh += 1

    def receive(self) -> list[Chosen]:
        """What has been sent before this step, or, not being late, all of it. Call once per step, after the sending."""
        count = len(self._sent) - self._fresh if self._late else len(self._sent)
        self._fresh = 0
        arrived, self._sent = self._sent[:count], self._sent[count:]
        return [_read(launch, tensors, event) for launch, tensors, event in arrived]


def _to_pinned(tensor: Tensor) -> Tensor:
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def _read(launch: Launch, tensors: list[Tensor], event: torch.cuda.Event | None) -> Chosen:
    if event is not None:
        event.synchronize()
    values = iter(tensors)
    ids: list[int] = next(values).tolist()
    logprobs: dict[int, float] = {}
    top: dict[int, tuple[tuple[int, float], ...]] = {}
    if launch.choice.logprobs is not None:
        own, best, best_ids = next(values).tolist(), next(values).tolist(), next(values).tolist()
        for number, place in enumerate(launch.reporting):
            wanted = launch.rows[place].request.top_logprobs or 0
            logprobs[place] = own[number]
            top[place] = tuple(zip(best_ids[number][:wanted], best[number][:wanted], strict=True))
    ended = tuple(search for search in launch.searches if any(next(values).tolist()))
    return Chosen(launch, ids, logprobs, top, ended)
