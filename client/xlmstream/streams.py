"""What a stream of generation or translation knows about itself: bookkeeping that the blocking and the asyncio stream
share.

Events are numbered from 0 without gap or repeat; whatever breaks on the way, asking again for the next one expected
continues the same text. This module says what to ask and checks what comes; it does no IO.
"""

from __future__ import annotations

from xlmstream.errors import ProtocolError, Unavailable, XlmstreamError
from xlmstream.messages import (
    Candidate,
    CandidateFinished,
    Event,
    FinishReason,
    Generation,
    Started,
    StreamFinished,
    TokenDelta,
    TokenLogprobs,
    event_of,
)
from xlmstream.v1.generation_pb2 import StreamEvent
from xlmstream.v1.inference_pb2 import (
    CancelRequestRequest,
    GenerateStreamRequest,
    GenerateStreamResponse,
    ResumeStreamRequest,
    ResumeStreamResponse,
)
from xlmstream.v1.translation_pb2 import TranslateStreamRequest, TranslateStreamResponse

StreamRequest = GenerateStreamRequest | TranslateStreamRequest | ResumeStreamRequest
StreamMessage = GenerateStreamResponse | TranslateStreamResponse | ResumeStreamResponse

CANCEL_TIMEOUT_S = 2.0
"""How long leaving a stream early may take to tell the service; the service stops an orphan by itself in 30 s."""


class StreamState:
    """How far one stream has come. Its attributes may be read at any time, during and after the stream."""

    def __init__(self, request: StreamRequest) -> None:
        self._request = request
        self._next_event = request.next_event if isinstance(request, ResumeStreamRequest) else 0
        self._texts: dict[int, list[str]] = {}
        self._token_ids: dict[int, list[int]] = {}
        self._logprobs: dict[int, list[TokenLogprobs]] = {}
        self._finish_reasons: dict[int, FinishReason] = {}
        self._scores: dict[int, float | None] = {}
        self.started: Started | None = None
        """The first event, once it came. A stream taken up by `resume_stream` past event 0 never sees it."""
        self.end: StreamFinished | None = None
        """The last event, once it came."""

    @property
    def request_id(self) -> str | None:
        """The key of the request, the user's or the one the client made; None for one taken up by its token."""
        return None if isinstance(self._request, ResumeStreamRequest) else self._request.options.request_id

    @property
    def resume_token(self) -> str | None:
        """Opens this stream again, from another process too: `client.resume_stream(token, next_event)`."""
        if isinstance(self._request, ResumeStreamRequest):
            return self._request.resume_token
        return self.started.resume_token if self.started else None

    @property
    def next_event(self) -> int:
        """Number of the next event: how many have been received, from the first of the request on."""
        return self._next_event

    @property
    def text(self) -> str:
        """What the first candidate has written so far."""
        return "".join(self._texts.get(0, ()))

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The ids of the first candidate so far."""
        return tuple(self._token_ids.get(0, ()))

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the first candidate ended; None while it goes on."""
        return self._finish_reasons.get(0)

    def _next_request(self) -> StreamRequest:
        """What continues the stream: the request itself until the first event came, a resume from then on.

        Sent again, the request joins its own first sending by its request_id, so nothing runs twice.
        """
        token = self.resume_token
        if token is None:
            return self._request
        return ResumeStreamRequest(resume_token=token, next_event=self._next_event)

    def _cancel_request(self) -> CancelRequestRequest | None:
        """What stops the work; None where only the resume token is known, and the service must stop it by itself."""
        if self.request_id:
            return CancelRequestRequest(request_id=self.request_id)
        return CancelRequestRequest(execution_id=self.started.execution_id) if self.started else None

    def _accept(self, message: StreamEvent) -> Event | None:
        """Take in one message; None where it tells users nothing (a heartbeat)."""
        if message.event_count == 0:
            return None
        if message.first_event != self._next_event:
            raise ProtocolError(f"expected event {self._next_event}, the service sent {message.first_event}")
        self._next_event += message.event_count
        event = event_of(message)
        match event:
            case Started():
                self.started = event
            case TokenDelta():
                self._texts.setdefault(event.candidate, []).append(event.text)
                self._token_ids.setdefault(event.candidate, []).extend(event.token_ids)
                self._logprobs.setdefault(event.candidate, []).extend(event.logprobs)
            case CandidateFinished():
                self._finish_reasons[event.candidate] = event.finish_reason
                self._scores[event.candidate] = event.score
            case StreamFinished():
                self.end = event
        return event

    def _generation(self) -> Generation:
        """The whole stream as `generate` would have returned it. Only for a finished stream seen from its start."""
        if self.end is None or self.started is None:
            raise RuntimeError("only a stream that was read from its first event to its last has a whole result")
        candidates = tuple(
            Candidate(
                "".join(self._texts.get(index, ())),
                tuple(self._token_ids.get(index, ())),
                self._finish_reasons.get(index, FinishReason.UNSPECIFIED),
                tuple(self._logprobs.get(index, ())),
                self._scores.get(index),
            )
            for index in sorted({0} | self._finish_reasons.keys() | self._texts.keys())
        )
        return Generation(candidates, self.started.parameters, self.end.usage, self.end.timing)


def ended_early() -> XlmstreamError:
    """The error of a call that ended well before its stream did, as behind a proxy that loses the status."""
    return Unavailable("the connection ended before the stream did")
