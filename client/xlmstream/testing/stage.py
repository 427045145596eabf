"""What the fake service remembers and decides: requests, runs, faults that are due. Called from many threads."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Never, TypeVar

import grpc
from google.protobuf.message import Message

from xlmstream.failures import DETAILS_KEY
from xlmstream.testing.jobs import FakeJob
from xlmstream.testing.script import Answer, Failure, Words, coalesced, generate, journal
from xlmstream.testing.tasks import EMBEDDING_SIZE, LABELS, MASK_TOKEN
from xlmstream.v1 import inference_pb2 as inference
from xlmstream.v1 import models_pb2 as models
from xlmstream.v1.common_pb2 import Task, TextInput
from xlmstream.v1.generation_pb2 import StreamEvent
from xlmstream.v1.translation_pb2 import TranslateStreamRequest

StreamMessage = TypeVar("StreamMessage")


def fake_model(name: str = "fake", version: str = "1") -> models.Model:
    """A model as the fake service lists it."""
    return models.Model(
        name=name,
        version=version,
        revision="0",
        tasks=[task for task in Task.values() if task != Task.TASK_UNSPECIFIED],
        languages=["de", "en", "es", "fr"],
        default_language="en",
        max_input_tokens=256,
        vocabulary_size=8000,
        dtype="float32",
        causal=True,
        decoding_modes=[
            models.DecodingMode.DECODING_MODE_NEXT_TOKEN,
            models.DecodingMode.DECODING_MODE_MASK_APPEND,
        ],
        input_format=models.InputFormat.INPUT_FORMAT_ORIGINAL,
        state=models.ModelState.MODEL_STATE_READY,
        workers=1,
        labels=LABELS,
        problem_type=models.ProblemType.PROBLEM_TYPE_SINGLE_LABEL,
        embedding_size=EMBEDDING_SIZE,
        layers=2,
        mask_token=MASK_TOKEN,
    )


@dataclass
class Fault:
    """What shall go wrong with the next call of a method, and after how many messages of it."""

    failure: Failure
    method: str
    after_messages: int


@dataclass
class Run:
    """One streamed generation or translation, kept for whoever joins or resumes it."""

    request: inference.GenerateStreamRequest | TranslateStreamRequest
    execution_id: str
    resume_token: str
    events: list[StreamEvent]
    finished: bool = False
    cancelled: bool = False


class Stage:
    """The state behind a FakeServer, which documents its public attributes."""

    def __init__(self, answers: Mapping[str, Answer] | Callable[[str], Answer] | None, coalesce: Sequence[int]) -> None:
        self.requests: list[Message] = []
        self.open_streams = 0
        self.models = [fake_model()]
        self.window = 1024
        self.changed = threading.Condition()
        self.words = Words()
        self._answers = answers
        self._sizes = itertools.cycle(coalesce)
        self._runs: list[Run] = []
        self._faults: deque[Fault] = deque()
        self._hold_after: int | None = None
        self.jobs: dict[str, FakeJob] = {}
        self.job_ids: dict[str, str] = {}
        self.jobs_held = False

    def fail(self, failure: Failure, *, method: str = "", after_messages: int = 0) -> None:
        """Let the next call of `method` ("Generate", "ResumeStream", ...; empty: any) fail; later calls take the next.

        A stream sends `after_messages` messages first, or all it has where those are fewer.
        """
        with self.changed:
            self._faults.append(Fault(failure, method, after_messages))

    def break_streams(self, *after_messages: int) -> None:
        """Break the connection of each next stream of generation, resumed ones too, after so many messages."""
        for count in after_messages:
            self.fail(Failure(), method="Stream", after_messages=count)

    def hold(self, after_messages: int) -> None:
        """Let every stream pause after so many messages, until `release` or until its caller is gone."""
        with self.changed:
            self._hold_after = after_messages

    def release(self) -> None:
        """Let paused streams go on."""
        with self.changed:
            self._hold_after = None
            self.changed.notify_all()

    def hold_jobs(self) -> None:
        """Let the items of jobs wait, until `release_jobs`."""
        with self.changed:
            self.jobs_held = True

    def release_jobs(self) -> None:
        """Let the items of jobs run, those that wait and those that come."""
        with self.changed:
            self.jobs_held = False
            for job in self.jobs.values():
                job.run()
            self.changed.notify_all()

    def notify(self) -> None:
        """Tell watchers what `models` has become."""
        with self.changed:
            self.changed.notify_all()

    def note(self, request: Message) -> None:
        """Note a further message of a call."""
        with self.changed:
            self.requests.append(request)
            self.changed.notify_all()

    def receive(self, request: Message, method: str, context: grpc.ServicerContext) -> Fault | None:
        """Note a request. Fails it where that is due now; returns a fault that is due later."""
        due = self.fault_of(request, method)
        if due is not None and due.after_messages == 0:
            abort(context, due.failure)
        return due

    def fault_of(self, request: Message, method: str) -> Fault | None:
        """Note a request; returns the fault that its call shall meet."""
        with self.changed:
            self.requests.append(request)
            self.changed.notify_all()
            due = next((one for one in self._faults if method.endswith(one.method)), None)
            if due is not None:
                self._faults.remove(due)
            return due

    def answer(self, prompt: str) -> Answer:
        if self._answers is None:
            return prompt
        if callable(self._answers):
            return self._answers(prompt)
        return self._answers.get(prompt, Failure("INVALID_INPUT", f"no answer was written for {prompt!r}"))

    def failure_of(self, text: str) -> Failure | None:
        """What an input of a task that does not generate shall meet: Failures among the answers hold for all tasks."""
        if self._answers is None:
            return None
        answer = self._answers(text) if callable(self._answers) else self._answers.get(text)
        return answer if isinstance(answer, Failure) else None

    def prompt_of(self, prompt: TextInput) -> str:
        return prompt.text if prompt.HasField("text") else self.words.text(prompt.token_ids.ids)

    def run(
        self, request: inference.GenerateStreamRequest | TranslateStreamRequest, context: grpc.ServicerContext
    ) -> Run:
        """The run that a request begins or joins."""
        with self.changed:
            for run in self._runs:
                if request.options.request_id and run.request.options.request_id == request.options.request_id:
                    if run.request != request:
                        abort(context, Failure("REQUEST_ID_REUSED"))
                    return run
        prompt = self.prompt_of(request.input)
        answer = self.answer(prompt)
        if isinstance(answer, Failure):
            abort(context, answer)
        result = generate(self.words, prompt, answer, request.parameters)
        with self.changed:
            number = len(self._runs)
            execution_id, resume_token = f"execution-{number}", f"resume-{number}"
            events = journal(result, execution_id=execution_id, resume_token=resume_token, model="fake@1")
            run = Run(request, execution_id, resume_token, events)
            self._runs.append(run)
        return run

    def resumed(self, request: inference.ResumeStreamRequest, context: grpc.ServicerContext) -> Run:
        with self.changed:
            run = next((one for one in self._runs if one.resume_token == request.resume_token), None)
        if run is None:
            abort(context, Failure("REQUEST_NOT_FOUND"))
        if request.next_event > len(run.events):
            abort(context, Failure("CURSOR_EXPIRED", metadata={"earliest": "0", "next": str(len(run.events))}))
        return run

    def follow(
        self, run: Run, next_event: int, fault: Fault | None, context: grpc.ServicerContext
    ) -> Iterator[StreamEvent]:
        """The messages of a run from `next_event` on, with whatever the script lets go wrong."""
        context.send_initial_metadata((("x-execution-id", run.execution_id),))
        yield from self.stream(self._paced(run, next_event, context), fault, context)

    def stream(
        self, messages: Iterator[StreamMessage], fault: Fault | None, context: grpc.ServicerContext
    ) -> Iterator[StreamMessage]:
        """The messages of a stream that is counted as open, up to the fault that is due."""
        if not context.add_callback(self.notify):
            return
        with self.changed:
            self.open_streams += 1
            self.changed.notify_all()
        try:
            for sent, message in enumerate(messages):
                if fault is not None and sent == fault.after_messages:
                    break
                yield message
            if fault is not None:
                abort(context, fault.failure)
        finally:
            with self.changed:
                self.open_streams -= 1
                self.changed.notify_all()

    def _paced(self, run: Run, next_event: int, context: grpc.ServicerContext) -> Iterator[StreamEvent]:
        for sent, message in enumerate(coalesced(run.events[next_event:], self._sizes)):
            self._pause(run, sent, context)
            run.finished = run.finished or message.HasField("finished")
            yield message

    def _pause(self, run: Run, sent: int, context: grpc.ServicerContext) -> None:
        with self.changed:
            self.changed.wait_for(
                lambda: self._hold_after is None or sent < self._hold_after or run.cancelled or not context.is_active()
            )
        if run.cancelled or not context.is_active():
            abort(context, Failure("CANCELLED", "the request was cancelled"))

    def cancel(self, request: inference.CancelRequestRequest, context: grpc.ServicerContext) -> bool:
        with self.changed:
            for run in self._runs:
                if request.execution_id == run.execution_id or request.request_id == run.request.options.request_id:
                    run.cancelled = run.cancelled or not run.finished
                    self.changed.notify_all()
                    return run.cancelled
            return abort(context, Failure("REQUEST_NOT_FOUND"))

    def watch(self, context: grpc.ServicerContext) -> Iterator[list[models.Model]]:
        """The models now and after every change, until the caller is gone."""
        context.add_callback(self.notify)
        told: list[models.Model] | None = None
        while context.is_active():
            with self.changed:
                while self.models == told and context.is_active():
                    self.changed.wait()
                told = list(self.models)
            yield told


def abort(context: grpc.ServicerContext, failure: Failure) -> Never:
    """End a call with `failure`."""
    status = failure.to_status()
    context.set_trailing_metadata(((DETAILS_KEY, status.SerializeToString()),) if failure.reason else ())
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    context.abort(code, status.message)
