"""Generation: from a GenerateStreamRequest to the engine's request, and from the engine's tokens to events.

The events of one execution, in order: Started, TokenDelta..., CandidateFinished, StreamFinished; or a failure. A second
attempt begins with the journal of the first: what it holds is neither computed nor sent again, and the text goes on
where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import xlmstream.status as statuses
from xlmstream.v1.common_pb2 import (
    FINISH_REASON_EOS,
    FINISH_REASON_LENGTH,
    FINISH_REASON_STOP_SEQUENCE,
    FinishReason,
    TextInput,
    Timing,
    Usage,
)
from xlmstream.v1.generation_pb2 import (
    CandidateFinished,
    GenerationParameters,
    Started,
    StreamFinished,
    TokenDelta,
)
from xlmstream.v1.inference_pb2 import GenerateStreamRequest
from xlmstream_server.broker.v1.messages_pb2 import Envelope, Event

from xlmstream_worker.decoding_modes import ENGINE_MODES, mask_to_append
from xlmstream_worker.detokenize import Detokenizer
from xlmstream_worker.models import LoadedModel
from xlmstream_worker.rows import Row
from xlmstream_worker.sequences import (
    BeamRules,
    DecodingMode,
    EndReason,
    FailureKind,
    SequenceRequest,
    Source,
    TokenOutput,
)
from xlmstream_worker.tasks.inputs import language_of, prompt_frame, prompt_ids
from xlmstream_worker.tasks.parameters import beam_search_of, effective_parameters, sampling_of
from xlmstream_worker.tasks.timing import timing


@dataclass(slots=True)
class _Candidate:
    """What is known of one candidate: its tokens, those of an earlier attempt included, and its text as it grows."""

    detokenizer: Detokenizer
    tokens: list[int] = field(default_factory=list)
    begun: bool = False
    """Whether a delta of it was sent."""
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for, read and checked."""

    parameters: GenerationParameters
    """With every default filled in."""
    language: str
    """Of the text to be written; "" where the model has only one."""
    prompt: tuple[int, ...]
    """What the text begins with."""
    prompt_tokens: int
    """How many tokens the caller is told to have sent."""
    mode: DecodingMode
    source: Source | None = None
    """What is to be translated."""
    beam_rules: BeamRules = BeamRules.TRANSFORMERS
    echo: str = ""
    """Text to be sent before the first token."""


def _reason(output: TokenOutput) -> FinishReason.ValueType | None:
    """Why the engine ended the candidate, if it did."""
    if output.finished is None:
        return None
    return FINISH_REASON_EOS if output.finished is EndReason.EOS else FINISH_REASON_LENGTH


def _delta(output: TokenOutput, text: str) -> TokenDelta:
    delta = TokenDelta(candidate=output.candidate, text=text)
    if output.token_id is not None:
        delta.token_ids.append(output.token_id)
        if output.logprob is not None:
            likely = delta.logprobs.add(logprob=output.logprob)
            likely.top_token_ids.extend(token for token, _ in output.top_logprobs)
            likely.top_logprobs.extend(logprob for _, logprob in output.top_logprobs)
    return delta


class Generation:
    """One execution of a generation on this worker: what to compute, and the events of what was computed.

    Built off the decode thread, which alone uses it from then on.
    """

    def __init__(self, row: Row, model: LoadedModel, worker_id: str) -> None:
        """Read, check and tokenise the request. Raises Refused."""
        began = time.monotonic()
        self._row = row
        self._model = model
        self._worker_id = worker_id
        self._asked = self._read(row.taken.envelope)
        self._parameters = self._asked.parameters
        self._candidates = [
            _Candidate(Detokenizer(model.pieces, list(self._parameters.stop), self._parameters.min_new_tokens))
            for _ in range(self._parameters.num_return_sequences)
        ]
        self._replay(row.taken.journal)
        self._sampling = sampling_of(self._parameters, model, self._asked.language)
        self._tokenize_s = time.monotonic() - began
        self._computing_since: float | None = None
        self._batch_size = 0
        self._cached_tokens = 0
        self.ended = False
        """Whether `push` has given the terminal event."""

    @property
    def slots(self) -> int:
        """Slots that it needs to go on."""
        if self._parameters.num_beams:
            return self._parameters.num_beams
        return sum(not one.ended for one in self._candidates)

    def opening(self) -> tuple[Event, ...]:
        """The events before the first token that an earlier attempt has not sent."""
        events = []
        if not self._row.taken.journal:
            started = Started(
                execution_id=self._row.execution_id,
                parameters=self._parameters,
                prompt_tokens=self._asked.prompt_tokens,
                model=self._model.full_name,
            )
            events.append(Event(started=started))
        for index, candidate in enumerate(self._candidates):
            if self._asked.echo and not candidate.begun:
                events.append(Event(delta=TokenDelta(candidate=index, text=self._asked.echo)))
        return tuple(events)

    def begin(self) -> SequenceRequest:
        """What the engine shall compute, from now on. Asked again, it is what is left to compute."""
        if self._computing_since is None:
            self._computing_since = time.monotonic()
        parameters, asked = self._parameters, self._asked
        return SequenceRequest(
            key=self._row.key,
            prompt_ids=asked.prompt,
            language_id=self._model.language_id(asked.language),
            source=asked.source,
            mode=asked.mode,
            mask_id=self._mask_id(),
            max_new_tokens=parameters.max_new_tokens,
            min_new_tokens=parameters.min_new_tokens,
            eos_id=None if parameters.ignore_eos else self._model.end_id,
            stop_ids=tuple(parameters.stop_token_ids),
            sampling=self._sampling,
            beam_search=beam_search_of(parameters, asked.beam_rules),
            candidates=len(self._candidates),
            top_logprobs=parameters.top_logprobs if parameters.HasField("top_logprobs") else None,
            forced_ids=self._forced_ids(),
            ended_candidates=frozenset(index for index, one in enumerate(self._candidates) if one.ended),
            prefix_scope=self._row.taken.envelope.tenant,
            alone=self._row.apart,
        )

    def push(self, output: TokenOutput, batch_size: int) -> tuple[Event, ...]:
        """The events of one output of a step in which `batch_size` rows decoded. The terminal one ends the row.

        Outputs of a candidate that has ended are ignored.
        """
        candidate = self._candidates[output.candidate]
        if candidate.ended:
            return ()
        self._batch_size = max(self._batch_size, batch_size)
        self._cached_tokens = max(self._cached_tokens, min(output.cached_tokens, self._asked.prompt_tokens))
        if output.failure is not None:
            self.ended = True
            oom = output.failure.kind is FailureKind.OUT_OF_MEMORY
            return (Event(failed=statuses.device_oom() if oom else statuses.internal()),)
        text = ""
        if output.token_id is not None:
            candidate.tokens.append(output.token_id)
            if output.token_id not in self._parameters.stop_token_ids:
                text = candidate.detokenizer.push(output.token_id)
        stopped = candidate.detokenizer.stopped
        reason = FINISH_REASON_STOP_SEQUENCE if stopped else _reason(output)
        if reason is not None and not stopped:
            text += candidate.detokenizer.finish()
        events = []
        if output.token_id is not None or text:
            events.append(Event(delta=_delta(output, text)))
        if reason is not None:
            candidate.ended = True
            finished = CandidateFinished(candidate=output.candidate, finish_reason=reason, score=output.score)
            events.append(Event(candidate_finished=finished))
        if all(one.ended for one in self._candidates):
            self.ended = True
            events.append(Event(finished=StreamFinished(usage=self._usage(), timing=self._timing())))
        return tuple(events)

    def candidate_ended(self, index: int) -> bool:
        """Whether nothing more of this candidate is wanted."""
        return self._candidates[index].ended

    def _replay(self, journal: Sequence[Event]) -> None:
        """Take up what an earlier attempt has sent."""
        for event in journal:
            if event.HasField("delta"):
                candidate = self._candidates[event.delta.candidate]
                candidate.begun = True
                for token in event.delta.token_ids:
                    candidate.tokens.append(token)
                    if token not in self._parameters.stop_token_ids:
                        candidate.detokenizer.push(token)
            elif event.HasField("candidate_finished"):
                self._candidates[event.candidate_finished.candidate].ended = True

    def _forced_ids(self) -> tuple[tuple[int, ...], ...]:
        if not any(one.tokens for one in self._candidates):
            return ()
        return tuple(tuple(one.tokens) for one in self._candidates)

    def _read(self, envelope: Envelope) -> Asked:
        """Read, check and tokenise the request. Raises Refused."""
        request = GenerateStreamRequest.FromString(envelope.request)
        model, given = self._model, request.input
        parameters = effective_parameters(request.parameters, envelope.seed, model.card.decoding_modes[0])
        language = language_of(model, given, "input")
        mode = ENGINE_MODES[parameters.decoding_mode]
        prompt = prompt_ids(
            model,
            given,
            language,
            request.options.truncation,
            parameters.max_new_tokens,
            "input",
            frame=prompt_frame(model, mode),
        )
        echo = self._prompt_text(given, prompt) if parameters.echo else ""
        return Asked(parameters, language, tuple(prompt), len(prompt), mode, echo=echo)

    def _mask_id(self) -> int | None:
        if self._asked.mode is not DecodingMode.MASK_APPEND:
            return None
        return mask_to_append(self._model.config, self._model.tokenizer)

    def _prompt_text(self, given: TextInput, prompt: Sequence[int]) -> str:
        if given.HasField("text"):
            return given.text
        detokenizer = Detokenizer(self._model.pieces)
        return "".join(detokenizer.push(token) for token in prompt) + detokenizer.finish()

    def _usage(self) -> Usage:
        return Usage(
            prompt_tokens=self._asked.prompt_tokens,
            completion_tokens=sum(len(one.tokens) for one in self._candidates),
            cached_tokens=self._cached_tokens,
        )

    def _timing(self) -> Timing:
        now = time.monotonic()
        return timing(
            self._row,
            self._worker_id,
            tokenize_s=self._tokenize_s,
            compute_s=now - (self._computing_since or now),
            batch_size=self._batch_size,
        )
