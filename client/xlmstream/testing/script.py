"""What the fake service says: failures, words as tokens, and the events of a stream. No IO."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field

from google.rpc import code_pb2
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status

from xlmstream import status
from xlmstream.v1.common_pb2 import FINISH_REASON_EOS, FINISH_REASON_LENGTH, Timing, Token, Usage
from xlmstream.v1.errors_pb2 import ErrorReason
from xlmstream.v1.generation_pb2 import (
    Candidate,
    CandidateFinished,
    GenerateResult,
    GenerationParameters,
    Heartbeat,
    Started,
    StreamEvent,
    StreamFinished,
    TokenDelta,
)


@dataclass(frozen=True)
class Failure:
    """An error as the service sends it; `reason` is a name of ErrorReason without its prefix, which fixes the code.

    An empty reason is a connection that breaks: UNAVAILABLE without details.
    """

    reason: str = ""
    message: str = "scripted failure"
    metadata: Mapping[str, str] = dataclass_field(default_factory=dict)
    retry_after_s: float | None = None
    field: str = ""
    """Path of the field at fault, for INVALID_INPUT."""

    def to_status(self) -> Status:
        if not self.reason:
            return Status(code=code_pb2.UNAVAILABLE, message=self.message)
        violations = [BadRequest.FieldViolation(field=self.field, description=self.message)]
        return status.build(
            ErrorReason.Value(f"ERROR_REASON_{self.reason}"),
            self.message,
            *([BadRequest(field_violations=violations)] if self.field else []),
            retry_after_s=self.retry_after_s,
            metadata=self.metadata,
        )


Answer = str | Failure
"""What follows a prompt or translates a text: a text, or the error that the prompt meets."""


class Words:
    """A vocabulary that gives each new word the next id; safe to use from several threads."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._lock = threading.Lock()

    def id_of(self, word: str) -> int:
        with self._lock:
            return self._ids.setdefault(word, len(self._ids))

    def tokens(self, text: str) -> list[Token]:
        return [
            Token(id=self.id_of(match[0]), piece=f"{match[0]}</w>", start=match.start(), end=match.end())
            for match in re.finditer(r"\S+", text)
        ]

    def text(self, ids: Sequence[int]) -> str:
        words = list(self._ids)
        return " ".join(words[one] if one < len(words) else "<unk>" for one in ids)


def generate(words: Words, prompt: str, answer: str, parameters: GenerationParameters) -> GenerateResult:
    """`answer` as the result of `prompt`, cut to max_new_tokens words where that is set."""
    pieces = _pieces(answer)
    kept = pieces[: parameters.max_new_tokens or None]
    candidate = Candidate(
        text="".join(kept),
        token_ids=[words.id_of(piece.strip()) for piece in kept],
        finish_reason=FINISH_REASON_EOS if len(kept) == len(pieces) else FINISH_REASON_LENGTH,
        score=-1.0 if parameters.num_beams else None,
    )
    usage = Usage(prompt_tokens=len(prompt.split()), completion_tokens=len(kept))
    timing = Timing(queue_us=10, tokenize_us=20, compute_us=100, total_us=130, worker_id="fake", batch_size=1)
    return GenerateResult(candidates=[candidate], parameters=parameters, usage=usage, timing=timing)


def journal(result: GenerateResult, *, execution_id: str, resume_token: str, model: str) -> list[StreamEvent]:
    """The events that stream `result`: Started, one delta a token, CandidateFinished, StreamFinished."""
    candidate = result.candidates[0]
    score = candidate.score if candidate.HasField("score") else None
    started = Started(
        execution_id=execution_id,
        resume_token=resume_token,
        parameters=result.parameters,
        prompt_tokens=result.usage.prompt_tokens,
        model=model,
    )
    events = [StreamEvent(started=started)]
    for text, token_id in zip(_pieces(candidate.text), candidate.token_ids, strict=True):
        events.append(StreamEvent(delta=TokenDelta(text=text, token_ids=[token_id])))
    events.append(StreamEvent(candidate_finished=CandidateFinished(finish_reason=candidate.finish_reason, score=score)))
    events.append(StreamEvent(finished=StreamFinished(usage=result.usage, timing=result.timing)))
    for number, event in enumerate(events):
        event.first_event, event.event_count = number, 1
    return events


def coalesced(events: Sequence[StreamEvent], sizes: Iterator[int]) -> Iterator[StreamEvent]:
    """The events as messages: neighbouring deltas joined up to the next of `sizes`; 0 gives a heartbeat."""
    waiting = list(events)
    while waiting:
        size = next(sizes)
        if size == 0:
            yield StreamEvent(first_event=waiting[0].first_event, heartbeat=Heartbeat())
            continue
        message = StreamEvent()
        message.CopyFrom(waiting.pop(0))
        while message.HasField("delta") and message.event_count < size and waiting[0].HasField("delta"):
            more = waiting.pop(0)
            message.event_count += 1
            message.delta.text += more.delta.text
            message.delta.token_ids.extend(more.delta.token_ids)
        yield message


def _pieces(text: str) -> list[str]:
    """The words of a text, each with the white space before it; the last with what follows it, too."""
    return re.findall(r"\s*\S+\s*$|\s*\S+", text)
