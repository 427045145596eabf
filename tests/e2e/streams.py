"""Reading streams the way a careful client does: every event once, in order, and when it came."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass, field

from xlmstream.v1.common_pb2 import RequestOptions, TextInput
from xlmstream.v1.generation_pb2 import GenerationParameters, StreamEvent
from xlmstream.v1.inference_pb2 import GenerateStreamRequest, GenerateStreamResponse, ResumeStreamResponse


def request(text: str, tokens: int = 60, **parameters: object) -> GenerateStreamRequest:
    return GenerateStreamRequest(
        options=RequestOptions(model="toy"),
        input=TextInput(text=text),
        parameters=GenerationParameters(max_new_tokens=tokens, ignore_eos=True, **parameters),
    )


def with_options(request: GenerateStreamRequest, **options: object) -> GenerateStreamRequest:
    request.options.MergeFrom(RequestOptions(**options))
    return request


@dataclass
class Reading:
    """What a stream has brought. `event` fails on any gap or repetition."""

    next_event: int = 0
    ids: list[int] = field(default_factory=list)
    text: str = ""
    execution_id: str = ""
    resume_token: str = ""
    finished: bool = False
    longest_pause_s: float = 0.0
    _last: float | None = None

    def event(self, event: StreamEvent) -> None:
        now = time.monotonic()
        if self._last is not None:
            self.longest_pause_s = max(self.longest_pause_s, now - self._last)
        assert event.first_event == self.next_event, f"event {event.first_event} where {self.next_event} is due"
        assert not self.finished
        self.next_event += event.event_count
        if event.event_count:
            self._last = now
        match event.WhichOneof("event"):
            case "started":
                self.execution_id = event.started.execution_id
                self.resume_token = event.started.resume_token
            case "delta":
                self.ids += event.delta.token_ids
                self.text += event.delta.text
            case "finished":
                self.finished = True

    async def read(
        self,
        call: AsyncIterable[GenerateStreamResponse | ResumeStreamResponse],
        on_event: Callable[[Reading], None] = lambda reading: None,
    ) -> Reading:
        async for response in call:
            self.event(response.event)
            on_event(self)
        return self
