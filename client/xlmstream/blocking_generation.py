"""The verbs of `Client` that write texts, generation and translation, and their streams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, Unpack, overload

from xlmstream import outputs, requests
from xlmstream.blocking_calls import Calls, Gateway, OpenCall, Stream
from xlmstream.blocking_verbs import TaskVerbs
from xlmstream.errors import XlmstreamError
from xlmstream.keywords import GenerateKeywords, Prompt, TranslateKeywords
from xlmstream.messages import Event, Generation, TokenDelta
from xlmstream.streams import StreamMessage, StreamRequest, StreamState
from xlmstream.v1.inference_pb2 import GenerateStreamRequest, ResumeStreamRequest
from xlmstream.v1.translation_pb2 import TranslateStreamRequest


class GenerationVerbs(TaskVerbs):
    """Each takes one text or a sequence of them; a stream takes one."""

    @overload  # a str is a sequence of str as well: the first signature that fits is the one meant
    def generate(  # type: ignore[overload-overlap]
        self, prompt: Prompt, /, *, timeout_s: float | None = None, **keywords: Unpack[GenerateKeywords]
    ) -> Generation: ...
    @overload
    def generate(
        self,
        prompts: Sequence[Prompt],
        /,
        *,
        timeout_s: float | None = None,
        return_exceptions: Literal[False] = False,
        **keywords: Unpack[GenerateKeywords],
    ) -> list[Generation]: ...
    @overload
    def generate(
        self,
        prompts: Sequence[Prompt],
        /,
        *,
        timeout_s: float | None = None,
        return_exceptions: Literal[True],
        **keywords: Unpack[GenerateKeywords],
    ) -> list[Generation | XlmstreamError]: ...
    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        /,
        *,
        timeout_s: float | None = None,
        return_exceptions: bool = False,
        **keywords: Unpack[GenerateKeywords],
    ) -> Generation | list[Generation] | list[Generation | XlmstreamError]:
        """Continue one prompt or several; the whole texts.

        Of several prompts one that fails never fails its neighbours: with `return_exceptions` its error takes its
        place in the list, otherwise the first error is raised, its `input_index` telling whose it is.
        """
        batch, alone = requests.batch_of(prompts)
        request = requests.generate_request(batch, keywords)
        response = self._calls.unary(
            lambda gateway: gateway.inference.Generate,
            request,
            timeout_s=self._limit(timeout_s),
            request_id=request.options.request_id,
        )
        return outputs.generations(
            response.outputs, len(batch), request.options.request_id, alone=alone, return_exceptions=return_exceptions
        )

    def generate_stream(
        self, prompt: Prompt, /, *, timeout_s: float | None = None, **keywords: Unpack[GenerateKeywords]
    ) -> GenerationStream:
        """Continue one prompt, the text as it grows.

        >>> with client.generate_stream("In the beginning") as stream:
        ...     for text in stream.text_deltas():
        ...         print(text, end="", flush=True)

        Iterating the stream itself gives all its events. A connection that breaks is taken up again where it broke,
        on any gateway. Leaving the block early stops the work.
        """
        request = requests.generate_stream_request(prompt, keywords)
        return GenerationStream(self._calls, request, self._limit(timeout_s))

    @overload  # a str is a sequence of str as well: the first signature that fits is the one meant
    def translate(  # type: ignore[overload-overlap]
        self, text: Prompt, /, *, timeout_s: float | None = None, **keywords: Unpack[TranslateKeywords]
    ) -> Generation: ...
    @overload
    def translate(
        self,
        texts: Sequence[Prompt],
        /,
        *,
        timeout_s: float | None = None,
        return_exceptions: Literal[False] = False,
        **keywords: Unpack[TranslateKeywords],
    ) -> list[Generation]: ...
    @overload
    def translate(
        self,
        texts: Sequence[Prompt],
        /,
        *,
        timeout_s: float | None = None,
        return_exceptions: Literal[True],
        **keywords: Unpack[TranslateKeywords],
    ) -> list[Generation | XlmstreamError]: ...
    def translate(
        self,
        texts: Prompt | Sequence[Prompt],
        /,
        *,
        timeout_s: float | None = None,
        return_exceptions: bool = False,
        **keywords: Unpack[TranslateKeywords],
    ) -> Generation | list[Generation] | list[Generation | XlmstreamError]:
        """Translate one text or several.

        >>> client.translate("Bonjour.", source_language="fr", target_language="en", num_beams=4)

        `candidates` of the result are the translations, the best first, with their scores in a beam search. Errors of
        several texts are as with `generate`.
        """
        batch, alone = requests.batch_of(texts)
        request = requests.translate_request(batch, keywords)
        response = self._calls.unary(
            lambda gateway: gateway.inference.Translate,
            request,
            timeout_s=self._limit(timeout_s),
            request_id=request.options.request_id,
        )
        return outputs.generations(
            response.outputs, len(batch), request.options.request_id, alone=alone, return_exceptions=return_exceptions
        )

    def translate_stream(
        self, text: Prompt, /, *, timeout_s: float | None = None, **keywords: Unpack[TranslateKeywords]
    ) -> GenerationStream:
        """Translate one text, the translation as it grows; a stream as that of `generate_stream`."""
        request = requests.translate_stream_request(text, keywords)
        return GenerationStream(self._calls, request, self._limit(timeout_s))

    def resume_stream(
        self, resume_token: str, next_event: int = 0, *, timeout_s: float | None = None
    ) -> GenerationStream:
        """Take up a stream that another client or process began, from event number `next_event`.

        `timeout_s` limits the reading; the work keeps the time limit it began with.
        """
        request = ResumeStreamRequest(resume_token=resume_token, next_event=next_event)
        return GenerationStream(self._calls, request, self._limit(timeout_s))


class GenerationStream(StreamState, Stream[StreamMessage, Event]):
    """The events of one generation or translation; see `Client.generate_stream`."""

    def __init__(self, calls: Calls, request: StreamRequest, timeout_s: float) -> None:
        StreamState.__init__(self, request)
        Stream.__init__(self, calls, timeout_s)

    def text_deltas(self) -> Iterator[str]:
        """Only the text of the first candidate, piece by piece."""
        for event in self:
            if isinstance(event, TokenDelta) and event.candidate == 0 and event.text:
                yield event.text

    def result(self) -> Generation:
        """Read the rest and return the whole, as `generate` does."""
        for _ in self:
            pass
        return self._generation()

    def _open(self, gateway: Gateway, timeout_s: float | None) -> OpenCall[StreamMessage]:
        request = self._next_request()
        if isinstance(request, GenerateStreamRequest):
            return gateway.inference.GenerateStream(request, timeout=timeout_s)
        if isinstance(request, TranslateStreamRequest):
            return gateway.inference.TranslateStream(request, timeout=timeout_s)
        return gateway.inference.ResumeStream(request, timeout=timeout_s)

    def _take(self, message: StreamMessage) -> Event | None:
        event = self._accept(message.event)
        self._ended = self.end is not None
        return event

    def _abandon(self) -> None:
        request = self._cancel_request()
        if request is not None:
            self._calls.abandon(request)
