"""The decoder engine: requests in, tokens out, one step at a time, for any mix of rows.

Iteration-level batching: rows join and leave at every step, and each gets what it would get alone. The engine knows
ids; it knows no text, no queue and no clock. One thread owns an engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from .beam import BeamSearch
from .cache import PrefixStore, SlotCache
from .choice import Chooser, Plan
from .cross import SourceCache
from .forward import Batch, Forward
from .graphs import widest_padding
from .isolation import run_isolated
from .lanes import Chunk, Placement, Prompt, Row
from .limits import Limits
from .network import Network
from .prefix import BLOCK_TOKENS
from .readback import Chosen, Launch, Readback
from .rowwise import RowwiseChooser
from .sampling import BatchwiseChooser
from .scheduler import Scheduler
from .searches import Searches, failures_of, outputs_of
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
from .sources import SourceReader
from .warming import warm_up_requests
from .xlm import XLMEncoderDecoder, XLMWithLMHeadModel

_NO_TOKEN = Failure(FailureKind.COMPUTE, "the scores leave no token to choose")
# Prompts computed at a time; with more, short prompts only wait for their turn in the same step. A masked model, which
# computes none ahead, takes in all at once.
_STAGING_SLOTS = 4
# A translation brings but one token of a prompt, and its source passes in company.
_SOURCE_STAGING_SLOTS = 8


class DecoderEngine:
    """Continuous batching over one model: a language model, or a translation model, whose requests have a source."""

    def __init__(self, model: XLMWithLMHeadModel | XLMEncoderDecoder, config: EngineConfig) -> None:
        """Raises ValueError for a model that cannot decode or a configuration that does not fit it."""
        encoder, writer = (model.encoder, model.decoder) if isinstance(model, XLMEncoderDecoder) else (None, model)
        settings = writer.config
        self.max_context = config.max_positions or settings.max_position_embeddings
        if self.max_context > settings.max_position_embeddings:
            raise ValueError(f"max_positions {self.max_context} exceeds the model's {settings.max_position_embeddings}")
        self.max_slots = config.max_slots
        device = torch.device(config.device)
        network = Network(writer, device, getattr(torch, config.dtype))
        self._limits = Limits(
            vocabulary=settings.vocab_size,
            languages=network.no_language,
            context_tokens=self.max_context,
            slots=config.max_slots,
            causal=settings.causal,
            source_tokens=0 if encoder is None else encoder.config.max_position_embeddings,
            source_languages=0 if encoder is None or encoder.lang_embeddings is None else encoder.config.n_langs,
        )
        static = device.type == "cuda" if config.static_shapes is None else config.static_shapes
        gap = 2 * widest_padding(config.max_slots) if static else 0
        staging = _STAGING_SLOTS if settings.causal else config.max_slots
        if encoder is not None:
            staging = _SOURCE_STAGING_SLOTS
        slots = config.max_slots + gap + staging
        self._reader: SourceReader | None = None
        sources: SourceCache | None = None
        if encoder is not None:
            most = encoder.config.max_position_embeddings
            sources = SourceCache(slots, most, network.source_heads, network.head_dim, network.dtype, device)
            self._reader = SourceReader(encoder, network, sources, config.prefill_tokens)
        self._cache = SlotCache(
            slots,
            staging,
            self.max_context,
            network.heads if settings.causal else [],
            network.head_dim,
            network.dtype,
            device,
            sources,
        )
        shares = settings.causal and encoder is None
        blocks = config.prefix_cache_bytes // self._cache.block_bytes(BLOCK_TOKENS) if shares else 0
        self._prefixes = PrefixStore(self._cache, blocks, BLOCK_TOKENS)
        self._scheduler = Scheduler(
            config.max_slots,
            staging,
            config.prefill_tokens,
            self.max_context,
            cached=settings.causal,
            prefix_blocks=blocks,
            gap=gap,
        )
        self._forward = Forward(
            network,
            self._cache,
            causal=settings.causal,
            mask_id=settings.mask_token_id,
            pad_id=settings.pad_index,
            static=static,
            max_rows=config.max_slots,
        )
        late = device.type == "cuda" if config.late_readback is None else config.late_readback
        self._readback = Readback(device, late=late)
        rowwise = device.type == "cpu" if config.rowwise is None else config.rowwise
        vocabulary = network.head.bias.shape[0]
        self._chooser: Chooser = RowwiseChooser(self._cache, vocabulary) if rowwise else BatchwiseChooser(self._cache)
        self._plans: dict[DecodingMode, tuple[int, Batch, Plan]] = {}
        self._searches = Searches(self._cache)
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
        self._searches.end(key)
        self._scheduler.cancel(key)

    def finish(self, key: str, candidate: int) -> None:
        """End one candidate that has had an output: the caller found a stop string."""
        self._scheduler.finish(key, candidate)

    # -- the loop ------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def step(self) -> StepResult:
        """Advance every running row by one token. Without work it returns an empty result at once."""
        encoded = 0
        if self._reader is not None:
            encoded = self._reader.advance(self._scheduler.sources(), self._fail_prompt)
        chunks = self._scheduler.chunks()
        for prompt in self._scheduler.loads():
            self._cache.load(prompt.slot, self._prefixes, prompt.reused)
        run_isolated(self._forward.prefill, chunks, self._fail_chunk)
        self._place(self._scheduler.place())
        batches = [lane.rows for lane in self._scheduler.lanes.values()]
        for rows in batches:
            run_isolated(self._decode, rows, self._fail_row)
        tokens = self._postprocess(self._readback.receive())
        prefilled = encoded + sum(chunk.stop - chunk.start for chunk in chunks)
        return StepResult(tokens, sum(map(len, batches)), prefilled)

    def warm_up(self) -> None:
        """Run the paths of this model once, so that the first request does not pay for it. Only on an idle engine."""
        with torch.inference_mode():
            self._forward.record()
        for request in warm_up_requests(self._limits):
            self.add(request)
        while not self.idle:
            self.step()

    @property
    def idle(self) -> bool:
        """Nothing waits, runs, or is left to report."""
        return self._scheduler.idle and not self._readback.outstanding and not self._ready

    @property
    def free_slots(self) -> int:
        """Slots neither held nor wanted by a waiting request."""
        return self._scheduler.free_slots

    @property
    def spare_slots(self) -> int:
        """The same; below 0 where waiting requests lack so many."""
        return self._scheduler.spare_slots

    @property
    def busy_slots(self) -> int:
        """Slots held by rows that decode or whose prompt is being computed."""
        return self._scheduler.busy_slots

    # -- parts of a step -----------------------------------------------------------------------------------------

    def _place(self, placement: Placement) -> None:
        """Move rows into the holes that others left, and give complete prompts to the rows that begin with them."""
        for prompt, block, start in placement.stored:
            self._cache.save(prompt.slot, start, self._prefixes, block)
        for source, slot, tokens in placement.moves:
            self._cache.move(source, slot, tokens)
        for prompt, row in placement.started:
            self._forward.start(prompt, row)
        self._searches.begin(row for _, row in placement.started)

    def _decode(self, rows: Sequence[Row]) -> None:
        """Compute and choose the next token of rows that lie side by side."""
        batch, plan = self._plan(rows)
        scores = self._forward.scores(batch)
        # A search that failed in an earlier part of this very step is gone, though its rows may still be computed.
        searching = [place for place, row in enumerate(batch.rows) if row.request.key in self._searches]
        kept = [(batch.rows[place], scores[place].clone()) for place in searching]
        choice = plan.choose(scores)
        self._cache.append(batch.slots, choice.ids)
        advanced = self._searches.advance(kept, self._fail_search)
        self._readback.send(Launch.of(batch.rows, choice, plan, advanced))
        for row in batch.rows:
            row.produced += 1
            row.leaving |= row.produced == row.limit

    def _plan(self, rows: Sequence[Row]) -> tuple[Batch, Plan]:
        """The tensors that describe these rows, made again only when the rows of the lane change."""
        lane = self._scheduler.lanes[rows[0].request.mode]
        known = self._plans.get(lane.mode)
        if known is not None and known[0] == lane.version and len(known[1].rows) == len(rows):
            return known[1], known[2]
        batch = self._forward.batch(rows)
        plan = self._chooser.plan(batch.rows, batch.slots)
        if len(rows) == len(lane.rows):
            self._plans[lane.mode] = (lane.version, batch, plan)
        return batch, plan

    # -- outputs -------------------------------------------------------------------------------------------------

    def _postprocess(self, arrived: Sequence[Chosen]) -> tuple[TokenOutput, ...]:
        """Report what has reached the host and end what it ends."""
        outputs, self._ready = self._ready, []
        for chosen in arrived:
            for place, row in enumerate(chosen.launch.rows):
                if not row.silent and row.request.beam_search is None:
                    outputs.append(self._output(chosen, place, row))
            for search in chosen.ended:
                if not search.rows[0].silent:
                    outputs += failures_of(search, _NO_TOKEN) if bool(search.failed) else outputs_of(search)
                    self._end_search(search)
        return tuple(outputs)

    def _output(self, chosen: Chosen, place: int, row: Row) -> TokenOutput:
        request, token, index = row.request, chosen.ids[place], chosen.launch.indices[place]
        if token < 0:
            return self._failed(row, index, _NO_TOKEN)
        reason = EndReason.EOS if token in request.end_ids else EndReason.LENGTH if index + 1 == row.limit else None
        if reason is not None:
            self._end(row)
        logprob, top = chosen.logprobs.get(place), chosen.top_logprobs.get(place, ())
        return TokenOutput(
            request.key, row.candidate, index, token, reason, None, logprob, top, cached_tokens=row.cached_tokens
        )

    def _end(self, row: Row) -> None:
        row.leaving = row.silent = True
        self._scheduler.forget_if_ended(row.request.key)

    # -- failures ------------------------------------------------------------------------------------------------

    def _fail_chunk(self, chunk: Chunk, failure: Failure) -> None:
        request, index = chunk.prompt.request, len(chunk.prompt.ids) - len(chunk.prompt.request.prompt_ids)
        reported = chunk.prompt.candidates
        if request.beam_search is not None:
            reported = tuple(c for c in range(request.candidates) if c not in request.ended_candidates)
            self._scheduler.cancel(request.key)
        for candidate in reported:
            self._ready.append(TokenOutput(request.key, candidate, index, None, EndReason.FAILED, failure))
        for candidate in chunk.prompt.candidates:
            self._scheduler.finish(request.key, candidate)

    def _fail_prompt(self, prompt: Prompt, failure: Failure) -> None:
        self._fail_chunk(Chunk(prompt, 0, 0), failure)

    def _fail_row(self, row: Row, failure: Failure) -> None:
        search = self._searches.find(row.request.key)
        if search is not None:
            self._fail_search(search, failure)
        elif not row.silent:
            self._ready.append(self._failed(row, row.produced, failure))

    def _fail_search(self, search: BeamSearch, failure: Failure) -> None:
        self._ready += failures_of(search, failure)
        self._end_search(search)

    def _failed(self, row: Row, index: int, failure: Failure) -> TokenOutput:
        self._end(row)
        return TokenOutput(row.request.key, row.candidate, index, None, EndReason.FAILED, failure)

    def _end_search(self, search: BeamSearch) -> None:
        key = search.rows[0].request.key
        self._searches.end(key)
        self._scheduler.cancel(key)

    # -- resumption ----------------------------------------------------------------------------------------------

    def _end_of_forced(self, request: SequenceRequest, candidate: int) -> EndReason | None:
        """How a candidate's forced tokens already end it, if they do."""
        forced = request.forced_ids[candidate] if request.forced_ids else ()
        if not forced or candidate in request.ended_candidates:
            return None
        if forced[-1] in request.end_ids:
            return EndReason.EOS
        room = min(request.max_new_tokens, self.max_context - len(request.prompt_ids))
        return EndReason.LENGTH if len(forced) >= room else None
