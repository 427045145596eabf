"""The encoder engine: inputs in, values out, one padding-free batch at a time, for any mix of readings.

    engine.add(request)            any number of inputs
    while not engine.idle:
        step = engine.step()       one batch; each input of it is reported by itself

Each input gets what it would get alone. The engine knows ids; it knows no text, no queue and no clock. One thread owns
an engine.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from .encoder_batches import Batcher, Job, TokenBudget
from .encoder_inputs import EncoderInput, EncoderOutput, EncoderRequest, EncoderStep, Pooling, Reading, Values, Vectors
from .isolation import failure_of, run_isolated
from .kernels import settle_kernels
from .readings import core_of, has_head, read
from .sequences import Failure, FailureKind
from .xlm import XLMModel, encode_packed, pack

Key = TypeVar("Key", bound=Hashable)

CPU_BATCH_TOKENS = 2048
CUDA_BATCH_TOKENS = 16384
# Of bulk work: a CPU is as fast with short batches as with long ones.
CPU_BULK_TOKENS = 256

_NOT_FINITE = Failure(FailureKind.COMPUTE, "the values are not numbers")


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """Attributes:
    batch_tokens: most tokens in one batch; None: 2048 on a CPU, 16384 on a GPU.
    bulk_tokens: most tokens in a batch of bulk requests alone; None: 256 on a CPU, `batch_tokens` on a GPU.
    """

    batch_tokens: int | None = None
    bulk_tokens: int | None = None


class EncoderEngine:
    """Batched encoding with one model, which stays where it is and as it is."""

    def __init__(self, model: torch.nn.Module, config: EncoderConfig | None = None) -> None:
        """`model`: one of the XLM classes, in eval mode. Raises ValueError for a configuration out of range."""
        self._model = model
        self._core: XLMModel = core_of(model)
        self._device = self._core.device
        settle_kernels(self._device)
        default = CUDA_BATCH_TOKENS if self._device.type == "cuda" else CPU_BATCH_TOKENS
        self.batch_tokens = default if config is None or config.batch_tokens is None else config.batch_tokens
        if self.batch_tokens < 1:
            raise ValueError(f"batch_tokens must be 1 or more, got {self.batch_tokens}")
        self._budget = TokenBudget(self.batch_tokens)
        bulk_tokens = self.batch_tokens if self._device.type == "cuda" else CPU_BULK_TOKENS
        if config is not None and config.bulk_tokens is not None:
            bulk_tokens = config.bulk_tokens
        self._waiting = Batcher(bulk_tokens)
        self._outputs: list[EncoderOutput] = []

    @property
    def idle(self) -> bool:
        """Whether nothing waits."""
        return not self._waiting

    @property
    def budget_tokens(self) -> int:
        """Most tokens of the next batch: `batch_tokens`, or less after the device ran out of memory."""
        return self._budget.tokens

    def add(self, request: EncoderRequest) -> None:
        """Queue a request. Raises ValueError naming what is out of range, or for a key already here."""
        if request.key in self._waiting:
            raise ValueError(f"key {request.key!r} is already in the engine")
        for given in request.inputs:
            self._check(given)
        self._waiting.add(request)

    def cancel(self, key: str) -> None:
        """Compute nothing more of a request; an unknown or ended key is no error."""
        self._waiting.cancel(key)

    @torch.inference_mode()
    def step(self) -> EncoderStep:
        """Compute one batch. Without work it returns an empty step at once."""
        jobs = self._waiting.next(self._budget.tokens)
        self._outputs = []
        run_isolated(self._run, jobs, self._fail)
        return EncoderStep(tuple(self._outputs), len(jobs))

    def warm_up(self) -> None:
        """Compute one batch, so that the first request does not wait for what is set up at first use."""
        reading = Vectors(Pooling.MEAN)
        self.add(EncoderRequest("warm up", tuple(EncoderInput((0,) * length, reading) for length in (4, 8))))
        self.step()

    def _run(self, jobs: Sequence[Job]) -> None:
        try:
            values = self._compute(jobs)
        except RuntimeError as error:
            if failure_of(error).kind is FailureKind.OUT_OF_MEMORY:
                self._budget.starved(sum(job.tokens for job in jobs))
            raise
        self._budget.fitted()
        self._outputs += (_output(job, value) for job, value in zip(jobs, values, strict=True))

    def _fail(self, job: Job, failure: Failure) -> None:
        self._outputs.append(EncoderOutput(job.key, job.index, failure=failure))

    def _compute(self, jobs: Sequence[Job]) -> list[Values]:
        """The values of each job, on the host."""
        values: list[Values] = [()] * len(jobs)
        for layer, members in _grouped(jobs, _layer).items():
            inputs = [jobs[place].given for place in members]
            batch = pack(
                [_ids(given) for given in inputs],
                langs=[given.languages for given in inputs],
                token_type_ids=[given.token_types for given in inputs],
                device=self._device,
            )
            states = encode_packed(self._core, batch, layer=layer)
            chosen = [jobs[place] for place in members]
            for reading, rows in _grouped(chosen, _reading).items():
                readers = [chosen[row] for row in rows]
                found = read(self._model, reading, states, rows, readers)
                for row, value in zip(rows, _to_host(found), strict=True):
                    values[members[row]] = value
        return values

    def _check(self, given: EncoderInput) -> None:
        settings = self._core.config
        T, most = len(given.ids), settings.max_position_embeddings
        if not 1 <= T <= most:
            raise ValueError(f"ids must be 1 to {most}, got {T}")
        ids = _ids(given)
        if min(ids) < 0 or max(ids) >= settings.vocab_size:
            raise ValueError(f"ids must be 0 to {settings.vocab_size - 1}")
        if given.languages is not None and not 0 <= min(given.languages) <= max(given.languages) < settings.n_langs:
            raise ValueError(f"languages must be 0 to {settings.n_langs - 1}")
        if any(not 0 <= place < T for place in given.places):
            raise ValueError(f"places must be 0 to {T - 1}")
        if not has_head(self._model, given.reading):
            raise ValueError(f"a {type(self._model).__name__} has no head for {type(given.reading).__name__}")


def _layer(job: Job) -> int | None:
    return job.given.reading.layer if isinstance(job.given.reading, Vectors) else None


def _reading(job: Job) -> Reading:
    return job.given.reading


def _grouped(jobs: Sequence[Job], key: Callable[[Job], Key]) -> dict[Key, list[int]]:
    """The places of the jobs by their key."""
    groups: dict[Key, list[int]] = {}
    for place, job in enumerate(jobs):
        groups.setdefault(key(job), []).append(place)
    return groups


def _ids(given: EncoderInput) -> Sequence[int]:
    if given.replaced is None:
        return given.ids
    place, replacement = given.replaced
    return (*given.ids[:place], replacement, *given.ids[place + 1 :])


def _to_host(found: list[tuple[Tensor, ...]]) -> list[Values]:
    """One copy for each kind of value, not one for each input."""
    columns = []
    for column in zip(*found, strict=True):
        flat = torch.cat([part.flatten() for part in column])
        whole = (flat.float() if flat.is_floating_point() else flat).cpu().numpy()
        ends = np.cumsum([part.numel() for part in column])
        columns.append(
            [part.reshape(like.shape) for part, like in zip(np.split(whole, ends[:-1]), column, strict=True)]
        )
    return list(zip(*columns, strict=True))


def _output(job: Job, values: Values) -> EncoderOutput:
    if all(np.isfinite(value).all() for value in values):
        return EncoderOutput(job.key, job.index, values)
    return EncoderOutput(job.key, job.index, failure=_NOT_FINITE)
