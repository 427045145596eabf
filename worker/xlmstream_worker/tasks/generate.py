"""Generation: from a GenerateStreamRequest to the engine's request, and from the engine's tokens to events.

The events of one execution, in order: Started, TokenDelta..., CandidateFinished, StreamFinished; or a failure. A second
attempt begins with the journal of the first: what it holds is neither computed nor sent again, and the text goes on
where it stopped.
"""

from __future__ import annotations

import time

import xlmstream.status as statuses
from xlmstream.v1.common_pb2 import (
    FINISH_REASON_EOS,
    FINISH_REASON_LENGTH,
    FINISH_REASON_STOP_SEQUENCE,
    FinishReason,
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
from xlmstream_server.broker.v1.messages_pb2 import Event

from xlmstream_worker.detokenize import Detokenizer
from xlmstream_worker.models import LoadedModel
from xlmstream_worker.rows import Row
from xlmstream_worker.sequences import EndReason, FailureKind, SamplingParameters, SequenceRequest, TokenOutput
from xlmstream_worker.tasks.inputs import language_of, prompt_ids
from xlmstream_worker.tasks.timing import timing

DEFAULT_MAX_NEW_TOKENS = 64


def effective_parameters(asked: GenerationParameters, seed: int) -> GenerationParameters:
    """The parameters with every default filled in; what stays unset has no limit."""
    effective = GenerationParameters(
        max_new_tokens=DEFAULT_MAX_NEW_TOKENS, min_new_tokens=0, temperature=0.0, top_p=1.0, seed=seed, ignore_eos=False
    )
    effective.MergeFrom(asked)
    return effective


def _reason(output: TokenOutput) -> FinishReason.ValueType | None:
    """Why the engine ended the candidate, if it did."""
    if output.finished is None:
        return None
    return FINISH_REASON_EOS if output.finished is EndReason.EOS else FINISH_REASON_LENGTH


class Generation:
    """One execution of a generation on this worker: what to compute, and the events of what was computed.

    Built off the decode thread, which alone uses it from then on.
    """

    def __init__(self, row: Row, model: LoadedModel, worker_id: str) -> None:
        """Read, check and tokenise the request. Raises Refused."""
        began = time.monotonic()
        taken = row.taken
        request = GenerateStreamRequest.FromString(taken.envelope.request)
        self._row = row
        self._model = model
        self._worker_id = worker_id
        self._parameters = effective_parameters(request.parameters, taken.envelope.seed)
        self._language = language_of(model, request.input, "input")
        self._prompt = prompt_ids(
            model, request.input, self._language, request.options.truncation, self._parameters.max_new_tokens, "input"
        )
        self._detokenizer = Detokenizer(model.pieces, list(self._parameters.stop), self._parameters.min_new_tokens)
        self._tokens = [token for event in taken.journal for token in event.delta.token_ids]
        for token in self._tokens:
            self._detokenizer.push(token)
        self._tokenize_s = time.monotonic() - began
        self._computing_since = began
        self._batch_size = 0
        self.ended = False
        """Whether `push` has given the terminal event."""

    def opening(self) -> tuple[Event, ...]:
        """Event 0, unless an earlier attempt has sent it."""
        if self._row.taken.journal:
            return ()
        started = Started(
            execution_id=self._row.execution_id,
            parameters=self._parameters,
            prompt_tokens=len(self._prompt),
            model=self._model.full_name,
        )
        return (Event(started=started),)

    def begin(self) -> SequenceRequest:
        """What the engine shall compute, from now on."""
        self._computing_since = time.monotonic()
        parameters = self._parameters
        return SequenceRequest(
            key=self._row.key,
            prompt_ids=tuple(self._prompt),
            language_id=self._model.language_id(self._language),
            max_new_tokens=parameters.max_new_tokens,
            min_new_tokens=parameters.min_new_tokens,
            eos_id=None if parameters.ignore_eos else self._model.end_id,
            sampling=SamplingParameters(
                temperature=parameters.temperature,
                top_k=parameters.top_k,
                top_p=parameters.top_p,
                seed=parameters.seed,
            ),
            forced_ids=(tuple(self._tokens),) if self._tokens else (),
            alone=self._row.taken.alone,
        )

    def push(self, output: TokenOutput, batch_size: int) -> tuple[Event, ...]:
        """The events of one output of a step in which `batch_size` rows decoded. The terminal one ends the row."""
        self._batch_size = max(self._batch_size, batch_size)
        if output.failure is not None:
            self.ended = True
            oom = output.failure.kind is FailureKind.OUT_OF_MEMORY
            return (Event(failed=statuses.device_oom() if oom else statuses.internal()),)
        text = ""
        if output.token_id is not None:
            self._tokens.append(output.token_id)
            text = self._detokenizer.push(output.token_id)
        reason = FINISH_REASON_STOP_SEQUENCE if self._detokenizer.stopped else _reason(output)
        if reason is not None and not self._detokenizer.stopped:
            text += self._detokenizer.finish()
        events = []
        if output.token_id is not None or text:
            token_ids = [] if output.token_id is None else [output.token_id]
            events.append(Event(delta=TokenDelta(candidate=output.candidate, token_ids=token_ids, text=text)))
        if reason is not None:
            self.ended = True
            finished = CandidateFinished(candidate=output.candidate, finish_reason=reason)
            events.append(Event(candidate_finished=finished))
            events.append(Event(finished=StreamFinished(usage=self._usage(), timing=self._timing())))
        return tuple(events)

    def _usage(self) -> Usage:
        return Usage(prompt_tokens=len(self._prompt), completion_tokens=len(self._tokens))

    def _timing(self) -> Timing:
        return timing(
            self._row,
            self._worker_id,
            tokenize_s=self._tokenize_s,
            compute_s=time.monotonic() - self._computing_since,
            batch_size=self._batch_size,
        )
