"""From response messages to what users hold: frozen results and events, and the pure functions that read them.

What operators look at (Model, ModelLoad, GetServerInfoResponse) stays a proto message: it is documented there, and a
field that a newer service adds reaches users without a change here.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field

from xlmstream.errors import ProtocolError
from xlmstream.v1 import common_pb2, generation_pb2, inference_pb2
from xlmstream.v1.generation_pb2 import GenerationParameters


class FinishReason(enum.StrEnum):
    """Why the generation of one candidate ended."""

    EOS = "eos"
    """The model produced its end-of-sequence token."""
    LENGTH = "length"
    """max_new_tokens was reached, or the model has no further positions."""
    STOP_SEQUENCE = "stop_sequence"
    """A stop string was produced; it is not part of the text."""
    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    ERROR = "error"
    UNSPECIFIED = "unspecified"
    """A reason that this version of the client does not know."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a request cost, in tokens."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """Of the prompt, not computed again: an earlier request began with them."""


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """How likely the model found one generated token. Natural logarithms."""

    logprob: float
    top: tuple[tuple[int, float], ...]
    """The most likely ids and their log-probabilities, best first; as many as `top_logprobs` asked for."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time of a request went, in microseconds; common.proto says what each covers."""

    queue_us: int
    tokenize_us: int
    compute_us: int
    total_us: int
    worker_id: str
    batch_size: int
    """Largest number of sequences that shared a step with this one, itself included."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One generated text."""

    text: str
    """Without the prompt, the end-of-sequence token and the stop string."""
    token_ids: tuple[int, ...]
    """The ids generated, the end-of-sequence token and those of the stop string included."""
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprobs, ...] = ()
    """One for each of `token_ids`, if `top_logprobs` was given."""
    score: float | None = None
    """What a beam search ranks its candidates by."""


@dataclass(frozen=True, slots=True)
class Generation:
    """What one prompt gave, or the translations of one text.

    `text`, `token_ids` and `finish_reason` are those of the first candidate.
    """

    candidates: tuple[Candidate, ...]
    parameters: GenerationParameters = field(repr=False)
    """The parameters in effect, defaults and the drawn seed filled in."""
    usage: Usage
    timing: Timing

    @property
    def text(self) -> str:
        return self.candidates[0].text

    @property
    def token_ids(self) -> tuple[int, ...]:
        return self.candidates[0].token_ids

    @property
    def finish_reason(self) -> FinishReason:
        return self.candidates[0].finish_reason


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a text."""

    id: int
    piece: str
    """The vocabulary entry; a word's last piece ends in "</w>"."""
    start: int
    """The token is `text[start:end]`; both 0 for added special tokens."""
    end: int


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one text."""

    tokens: tuple[Token, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(token.id for token in self.tokens)

    @property
    def pieces(self) -> tuple[str, ...]:
        return tuple(token.piece for token in self.tokens)


@dataclass(frozen=True, slots=True)
class Started:
    """A worker has begun: always the first event of a stream."""

    execution_id: str
    resume_token: str
    """Opens the stream from anywhere; keep it secret."""
    parameters: GenerationParameters = field(repr=False)
    prompt_tokens: int
    model: str


@dataclass(frozen=True, slots=True)
class TokenDelta:
    """More of one candidate. The texts of all its deltas, one after another, are its final text."""

    text: str
    """What became certain; may be empty."""
    token_ids: tuple[int, ...]
    candidate: int
    logprobs: tuple[TokenLogprobs, ...] = ()
    """One for each of `token_ids`, if `top_logprobs` was given."""


@dataclass(frozen=True, slots=True)
class CandidateFinished:
    """One candidate ended; no further deltas of it follow."""

    finish_reason: FinishReason
    candidate: int
    score: float | None = None
    """What a beam search ranks its candidates by."""


@dataclass(frozen=True, slots=True)
class StreamFinished:
    """All candidates ended: always the last event of a stream that ended well."""

    usage: Usage
    timing: Timing


Event = Started | TokenDelta | CandidateFinished | StreamFinished


def event_of(message: generation_pb2.StreamEvent) -> Event | None:
    """What a stream message tells; None for a heartbeat, or for a kind of event that this version does not know."""
    match message.WhichOneof("event"):
        case "started":
            started = message.started
            return Started(
                started.execution_id,
                started.resume_token,
                started.parameters,
                started.prompt_tokens,
                started.model,
            )
        case "delta":
            delta = message.delta
            return TokenDelta(delta.text, tuple(delta.token_ids), delta.candidate, logprobs_of(delta.logprobs))
        case "candidate_finished":
            finished = message.candidate_finished
            return CandidateFinished(finish_reason_of(finished.finish_reason), finished.candidate, score_of(finished))
        case "finished":
            return StreamFinished(usage_of(message.finished.usage), timing_of(message.finished.timing))
        case _:
            return None


def generation_of(result: generation_pb2.GenerateResult) -> Generation:
    if not result.candidates:
        raise ProtocolError("the service sent a result without a candidate")
    candidates = tuple(
        Candidate(
            one.text,
            tuple(one.token_ids),
            finish_reason_of(one.finish_reason),
            logprobs_of(one.logprobs),
            score_of(one),
        )
        for one in result.candidates
    )
    return Generation(candidates, result.parameters, usage_of(result.usage), timing_of(result.timing))


def score_of(ended: generation_pb2.Candidate | generation_pb2.CandidateFinished) -> float | None:
    return ended.score if ended.HasField("score") else None


def tokens_of(result: inference_pb2.TokenizeResult) -> Tokens:
    return Tokens(tuple(Token(one.id, one.piece, one.start, one.end) for one in result.tokens))


def text_of(result: inference_pb2.DetokenizeResult) -> str:
    return result.text


def usage_of(usage: common_pb2.Usage) -> Usage:
    return Usage(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)


def logprobs_of(logprobs: Iterable[generation_pb2.TokenLogprobs]) -> tuple[TokenLogprobs, ...]:
    return tuple(
        TokenLogprobs(one.logprob, tuple(zip(one.top_token_ids, one.top_logprobs, strict=True))) for one in logprobs
    )


def timing_of(timing: common_pb2.Timing) -> Timing:
    return Timing(
        timing.queue_us, timing.tokenize_us, timing.compute_us, timing.total_us, timing.worker_id, timing.batch_size
    )


_FINISH_REASONS: dict[int, FinishReason] = {
    value: FinishReason[name.removeprefix("FINISH_REASON_")] for name, value in common_pb2.FinishReason.items()
}


def finish_reason_of(number: int) -> FinishReason:
    return _FINISH_REASONS.get(number, FinishReason.UNSPECIFIED)
