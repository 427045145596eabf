"""The decoder engine: requests in, tokens out, one step at a time, for any mix of rows.

Iteration-level batching: rows join and leave at every step, and each gets what it would get alone. The engine knows
ids; it knows no text, no queue and no clock. One thread owns an engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from .cache import SlotCache
from .limits import Limits
from .network import Network, Span
from .sampling import SamplingPlan, choose
from .scheduler import Chunk, Placement, Row, Scheduler
from .sequences import (
    DecodingMode,
    EndReason,
    EngineConfig,
    Failure,
    FailureKind,
    SequenceRequest,
    StepResult,
    TokenOutput,
)
from .xlm import XLMWithLMHeadModel

# Prompts computed at a time; with more, short prompts only wait for their turn in the same step.
_STAGING_SLOTS = 4


Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class _Batch:
    """Rows that lie side by side, in the order of their slots, and what they ask for."""

    version: int
    rows: tuple[Row, ...]
    slots: slice
    plan: SamplingPlan
    masks: Tensor | None
    """int64 (B, 1): the mask token of each row in MASK_APPEND."""


@dataclass(frozen=True, slots=True)
class _Launch:
    """A computed batch whose ids may still be on their way to the host."""

    rows: tuple[Row, ...]
    indices: tuple[int, ...]
    ids: Tensor


class DecoderEngine:
    """Continuous batching over one model."""

    def __init__(self, model: XLMWithLMHeadModel, config: EngineConfig) -> None:
        """Raises ValueError for a model that cannot decode or a configuration that does not fit it."""
        settings = model.config
        self.max_context = config.max_positions or settings.max_position_embeddings
        if self.max_context > settings.max_position_embeddings:
            raise ValueError(f"max_positions {self.max_context} exceeds the model's {settings.max_position_embeddings}")
        self.max_slots = config.max_slots
        self._device = torch.device(config.device)
        self._network = Network(model, self._device, getattr(torch, config.dtype))
        self._limits = Limits(
            vocabulary=settings.vocab_size,
            languages=self._network.no_language,
            context_tokens=self.max_context,
            slots=config.max_slots,
            causal=settings.causal,
        )
        self._scheduler = Scheduler(
            config.max_slots, _STAGING_SLOTS, config.prefill_tokens, self.max_context, cached=settings.causal
        )
        self._cache = SlotCache(
            config.max_slots + _STAGING_SLOTS,
            self.max_context,
            self._network.heads if settings.causal else [],
            self._network.head_dim,
            self._network.dtype,
            self._device,
        )
        self._mask_id = settings.mask_token_id
        self._pad_id = settings.pad_index
        self._batches: dict[DecodingMode, _Batch] = {}
        self._launched: list[_Launch] = []
        self._ready: list[TokenOutput] = []

    # -- requests ------------------------------------------------------------------------------------------------

    def add(self, request: SequenceRequest) -> None:
        """Queue a request. Raises ValueError naming the field that is out of range, or for a key already here."""
        if request.key in self._scheduler:
            raise ValueError(f"key {request.key!r} is already in the engine")
        self._limits.check(request)
        ended = {c: reason for c in range(request.candidates) if (reason := self._end_of_forced(request, c))}
        for candidate, reason in ended.items():
            self._ready.append(TokenOutput(request.key, candidate, len(request.forced_ids[candidate]), None, reason))
        request = replace(request, ended_candidates=request.ended_candidates | ended.keys())
        if len(request.ended_candidates) < request.candidates:
            self._scheduler.add(request)

    def cancel(self, key: str) -> None:
        """End a request; nothing of it is reported any more. An unknown or ended key is no error."""
        self._ready = [output for output in self._ready if output.key != key]
        self._scheduler.cancel(key)

    def finish(self, key: str, candidate: int) -> None:
        """End one candidate, as `cancel` does the request: the caller found a stop string."""
        self._scheduler.finish(key, candidate)

    # -- the loop ------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def step(self) -> StepResult:
        """Advance every running row by one token. Without work it returns an empty result at once."""
        chunks = self._scheduler.chunks()
        self._isolate(self._prefill, chunks, self._fail_chunk)
        self._place(self._scheduler.place())
        batch = [lane.rows for lane in self._scheduler.lanes.values()]
        for rows in batch:
            self._isolate(self._decode, rows, self._fail_row)
        tokens = self._postprocess()
        return StepResult(tokens, sum(map(len, batch)), sum(chunk.stop - chunk.start for chunk in chunks))

    def warm_up(self) -> None:
        """Run the paths of this model once, so that the first request does not pay for it."""
        for mode in DecodingMode:
            if mode is DecodingMode.MASK_APPEND or self._limits.causal:
                self.add(SequenceRequest(f"warm-up {mode.value}", (0,) * (self.max_context - 1), mode=mode))
        while not self.idle:
            self.step()

    @property
    def idle(self) -> bool:
        """Nothing waits, runs, or is left to report."""
        return self._scheduler.idle and not self._launched and not self._ready

    @property
    def free_slots(self) -> int:
        """Slots neither held nor wanted by a waiting request."""
        return self._scheduler.free_slots

    @property
    def busy_slots(self) -> int:
        """Slots held by rows that decode or whose prompt is being computed."""
        return self._scheduler.busy_slots

    # -- parts of a step -----------------------------------------------------------------------------------------

    def _prefill(self, chunks: Sequence[Chunk]) -> None:
        """Compute the keys and values of some prompt tokens in staging slots."""
        ids: list[int] = []
        positions: list[int] = []
        languages: list[int] = []
        for chunk in chunks:
            ids += chunk.prompt.ids[chunk.start : chunk.stop]
            positions += range(chunk.start, chunk.stop)
            languages += [self._language(chunk.prompt.request)] * (chunk.stop - chunk.start)
        self._network.prefill(
            self._ids(ids),
            self._ids(positions),
            self._ids(languages),
            [Span(chunk.prompt.slot, chunk.start, chunk.stop) for chunk in chunks],
            self._cache,
        )

    def _place(self, placement: Placement) -> None:
        """Move rows into the holes that others left, and give complete prompts to the rows that begin with them."""
        for source, slot, tokens in placement.moves:
            self._cache.move(source, slot, tokens)
        for prompt, row in placement.started:
            self._cache.start(prompt.slot, row.slot, self._ids(prompt.ids), self._language(row.request))

    def _decode(self, rows: Sequence[Row]) -> None:
        """Compute and choose the next token of rows that lie side by side."""
        batch = self._batch(rows)
        cache, slots = self._cache, batch.slots
        lengths = cache.lengths[slots]
        context = max(row.tokens for row in batch.rows)
        ids = choose(self._scores(batch, lengths, context), lengths, batch.plan)
        cache.append(slots, ids.clamp(min=0))
        self._launched.append(_Launch(batch.rows, tuple(row.produced for row in batch.rows), ids))
        for row in batch.rows:
            row.produced += 1
            row.leaving |= row.produced == row.limit

    def _scores(self, batch: _Batch, lengths: Tensor, context: int) -> Tensor:
        """Scores float32 (B, V) of the next token."""
        cache, slots = self._cache, batch.slots
        languages = cache.languages[slots]
        if batch.masks is None:
            positions = lengths[:, None] - 1
            ids = cache.tokens[slots].gather(1, positions)
            ragged = any(row.tokens != context for row in batch.rows)
            return self._network.decode(ids, positions, languages, slots, context, cache, ragged)
        if self._limits.causal:
            positions = torch.stack([lengths - 1, lengths], dim=1)
            ids = torch.cat([cache.tokens[slots].gather(1, positions[:, :1]), batch.masks], dim=1)
            return self._network.decode(ids, positions, languages, slots, context + 1, cache, ragged=True)
        ids = cache.tokens[slots, : context + 1].scatter(1, lengths[:, None], batch.masks)
        places = torch.arange(context + 1, device=self._device)
        real = (ids != self._pad_id) & (places <= lengths[:, None])
        visible = places < real.sum(1, keepdim=True)  # as the model infers lengths: by counting what is no padding
        return self._network.recompute(ids, languages, visible, lengths)

    def _postprocess(self) -> tuple[TokenOutput, ...]:
        """Read the chosen ids and end what they end."""
        outputs, self._ready = self._ready, []
        launches, self._launched = self._launched, []
        for launch in launches:
            for row, index, token in zip(launch.rows, launch.indices, launch.ids.tolist(), strict=True):
                if not row.silent:
                    outputs.append(self._output(row, index, token))
        return tuple(outputs)

    def _output(self, row: Row, index: int, token: int) -> TokenOutput:
        if token < 0:
            return self._failed(row, index, Failure(FailureKind.COMPUTE, "the scores leave no token to choose"))
        reason = self._end_reason(row, index, token)
        if reason is not None:
            self._end(row)
        return TokenOutput(row.request.key, row.candidate, index, token, reason)

    def _end_reason(self, row: Row, index: int, token: int) -> EndReason | None:
        if token == row.request.eos_id:
            return EndReason.EOS
        return EndReason.LENGTH if index + 1 == row.limit else None

    def _end(self, row: Row) -> None:
        row.leaving = row.silent = True
        self._scheduler.forget_if_ended(row.request.key)

    # -- failures ------------------------------------------------------------------------------------------------

    def _isolate(
        self, run: Callable[[Sequence[Item]], None], items: Sequence[Item], fail: Callable[[Item, Failure], None]
    ) -> None:
        """Run all items together; where that fails, halves, down to the one item at fault.

        Running again is safe: keys and values are rewritten in place, and tokens are appended last.
        """
        if not items:
            return
        try:
            run(items)
        except (RuntimeError, ValueError, IndexError) as error:  # what torch raises, for lack of memory too
            if len(items) == 1:
                fail(items[0], _failure(error))
                return
            half = len(items) // 2
            for part in (items[:half], items[half:]):
                self._isolate(run, part, fail)

    def _fail_chunk(self, chunk: Chunk, failure: Failure) -> None:
        request, index = chunk.prompt.request, len(chunk.prompt.ids) - len(chunk.prompt.request.prompt_ids)
        for candidate in chunk.prompt.candidates:
            self._ready.append(TokenOutput(request.key, candidate, index, None, EndReason.FAILED, failure))
            self._scheduler.finish(request.key, candidate)

    def _fail_row(self, row: Row, failure: Failure) -> None:
        self._ready.append(self._failed(row, row.produced, failure))

    def _failed(self, row: Row, index: int, failure: Failure) -> TokenOutput:
        self._end(row)
        return TokenOutput(row.request.key, row.candidate, index, None, EndReason.FAILED, failure)

    # -- small things --------------------------------------------------------------------------------------------

    def _batch(self, rows: Sequence[Row]) -> _Batch:
        """The tensors that describe these rows, made again only when the rows of the lane change."""
        lane = self._scheduler.lanes[rows[0].request.mode]
        known = self._batches.get(lane.mode)
        if known is not None and known.version == lane.version and len(known.rows) == len(rows):
            return known
        ordered = tuple(sorted(rows, key=lambda row: row.slot))
        masks = [self._mask_id if row.request.mask_id is None else row.request.mask_id for row in ordered]
        batch = _Batch(
            version=lane.version,
            rows=ordered,
            slots=slice(ordered[0].slot, ordered[-1].slot + 1),
            plan=SamplingPlan.of(ordered, self._device),
            masks=self._ids(masks)[:, None] if lane.mode is DecodingMode.MASK_APPEND else None,
        )
        if len(rows) == len(lane.rows):
            self._batches[lane.mode] = batch
        return batch

    def _end_of_forced(self, request: SequenceRequest, candidate: int) -> EndReason | None:
        """How a candidate's forced tokens already end it, if they do."""
        forced = request.forced_ids[candidate] if request.forced_ids else ()
        if not forced or candidate in request.ended_candidates:
            return None
        if forced[-1] == request.eos_id:
            return EndReason.EOS
        room = min(request.max_new_tokens, self.max_context - len(request.prompt_ids))
        return EndReason.LENGTH if len(forced) >= room else None

    def _language(self, request: SequenceRequest) -> int:
        return self._network.no_language if request.language_id is None else request.language_id

    def _ids(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._device)


def _failure(error: Exception) -> Failure:
    # On a CPU a failed allocation is a plain RuntimeError.
    starved = isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
    return Failure(FailureKind.OUT_OF_MEMORY if starved else FailureKind.COMPUTE, str(error).splitlines()[0])
