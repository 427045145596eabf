"""A worker without a model: real `WorkerBroker`, tokens known in advance, and every step under the test's control.

Its token number i for a prompt is a hash of both, so each stream can be checked without having been seen before. It
steps all its rows together, as the real one does. A prompt may say how it is to be treated:

    "hold:3 text"    three tokens, then nothing until `release`
    "burst:500 text" that many events in one step
    "big:1000 text"  that many characters of text with each token
    "fail text"      ends with an INTERNAL error after two tokens
    "long text"      is refused as too long

For the tasks that do not generate see scripted_tasks.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gateway.scripted_tasks import EMBEDDING_SIZE, ENCODER_TASKS, LABELS, perform
from xlmstream.v1 import inference_pb2 as pb
from xlmstream.v1.common_pb2 import FINISH_REASON_LENGTH, Task, Timing, Token, Usage
from xlmstream.v1.generation_pb2 import CandidateFinished, GenerationParameters, Started, StreamFinished, TokenDelta
from xlmstream.v1.models_pb2 import DECODING_MODE_NEXT_TOKEN, INPUT_FORMAT_HUGGINGFACE, Model
from xlmstream.v1.translation_pb2 import TranslateStreamRequest
from xlmstream_server import errors
from xlmstream_server.broker import BrokerDown, Fenced, Output, Stop, Taken, WorkerBroker, failures, is_terminal
from xlmstream_server.broker.v1.messages_pb2 import Event, ServedModel, WorkerCard

VOCABULARY_SIZE = 1000
MAX_INPUT_TOKENS = 512
SLOTS = 64


def expected_ids(prompt: str, count: int) -> list[int]:
    """The ids that a prompt is continued with."""
    seed = hashlib.sha256(prompt.encode()).digest()
    return [
        int.from_bytes(hashlib.sha256(seed + number.to_bytes(4, "big")).digest()[:4], "big") % VOCABULARY_SIZE
        for number in range(count)
    ]


def text_of(ids: Sequence[int]) -> str:
    return "".join(f" w{each}" for each in ids)


def card(name: str = "toy", version: str = "1", tasks: Sequence[Task.ValueType] | None = None) -> Model:
    return Model(
        name=name,
        version=version,
        revision="abc",
        tasks=tasks or [Task.TASK_GENERATE, Task.TASK_TOKENIZE, Task.TASK_DETOKENIZE, *ENCODER_TASKS],
        languages=["en", "fr", "de"],
        max_input_tokens=MAX_INPUT_TOKENS,
        vocabulary_size=VOCABULARY_SIZE,
        dtype="float32",
        causal=True,
        decoding_modes=[DECODING_MODE_NEXT_TOKEN],
        input_format=INPUT_FORMAT_HUGGINGFACE,
        default_language="en",
        labels=LABELS,
        embedding_size=EMBEDDING_SIZE,
        layers=2,
        mask_token="<special1>",
    )


@dataclass
class Row:
    """One generation in progress."""

    name: str
    prompt: str
    ids: list[int]
    done: int = 0
    hold_at: int | None = None
    a_step: int = 1
    padding: int = 0
    fails: bool = False
    began: bool = False
    parameters: GenerationParameters = field(default_factory=GenerationParameters)
    score: float | None = None

    @property
    def held(self) -> bool:
        return self.hold_at is not None and self.done >= self.hold_at


class ScriptedWorker:
    """Runs in a thread of its own. Use as a context manager.

    Args:
        broker_url: where the queue is.
        models: cards of what it serves.
        step_s: pause between two steps.
        takes: false to let everything wait in the queue.
    """

    def __init__(
        self,
        broker_url: str,
        *,
        worker_id: str = "w1",
        models: Sequence[Model] = (),
        step_s: float = 0.002,
        takes: bool = True,
        slots: int = SLOTS,
    ) -> None:
        self.models = list(models) or [card()]
        self.takes = takes
        self.started: list[str] = []
        self.stopped: dict[str, Stop] = {}
        self.tokens_after_stop = 0
        self.rows: dict[str, Row] = {}
        self.sizes: list[int] = []
        self.waiting: dict[str, tuple[set[str], Event]] = {}
        self._url = broker_url
        self._worker_id = worker_id
        self._step_s = step_s
        self._slots = slots
        self._released: set[str] = set()
        self._ending = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"scripted-{worker_id}")
        self._crash: BaseException | None = None

    def __enter__(self) -> ScriptedWorker:
        self._broker = WorkerBroker.connect(
            self._url, worker_id=self._worker_id, models=[f"{m.name}@{m.version}" for m in self.models], lease_s=2.0
        )
        self._register()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending = True
        self._thread.join(60)
        self._broker.close()
        assert not self._thread.is_alive()
        if self._crash is not None:
            raise self._crash

    def release(self, prompt: str) -> None:
        """Let the row of `prompt` go on."""
        with self._changed:
            self._released.add(prompt)

    def wait(self, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Until `condition` holds; it is looked at after each of the worker's steps."""
        with self._changed:
            assert self._changed.wait_for(condition, timeout_s), f"waited {timeout_s} s in vain: {self.rows}"

    def _register(self) -> None:
        served = [
            ServedModel(model=m, bytes_per_token=4.0, slots=self._slots, busy_slots=len(self.rows)) for m in self.models
        ]
        self._broker.register(WorkerCard(version="test", models=served))

    def _run(self) -> None:
        try:
            renewed = registered = time.monotonic()
            while not self._ending:
                try:
                    if time.monotonic() - renewed > self._broker.renew_every_s:
                        self._broker.renew()
                        renewed = time.monotonic()
                    if time.monotonic() - registered > 1.0:
                        self._register()
                        registered = time.monotonic()
                    self._step()
                except BrokerDown:
                    time.sleep(0.05)
                except Fenced:
                    self.rows.clear()
                    self.waiting.clear()
                    self._broker.begin()
        except BaseException as crash:  # the test learns of it when it leaves the context
            self._crash = crash
            raise

    def _step(self) -> None:
        outputs: list[Output] = []
        if self.takes and (free := self._slots - len(self.rows)):
            for taken in self._broker.take(free):
                outputs += self._begin(taken)
        with self._changed:
            outputs += [
                Output(name, (event,)) for name, (texts, event) in self.waiting.items() if texts & self._released
            ]
            outputs += [Output(name, events) for name, row in self.rows.items() if (events := self._advance(row))]
            ended = [each.execution_id for each in outputs if ends(each.events[-1])]
        published = self._broker.publish(outputs)
        for name, reason in published.stop.items():
            self._broker.publish([Output(name, (_stopped(reason),))] if reason is not Stop.LOST else [])
        with self._changed:
            self.stopped |= published.stop
            for name in (*ended, *published.stop):
                self.rows.pop(name, None)
                self.waiting.pop(name, None)
            self._changed.notify_all()
        if self.rows or self.waiting:
            time.sleep(self._step_s)
        elif self.takes:
            self._broker.wait(0.05)
        else:
            time.sleep(0.02)

    def _begin(self, taken: Taken) -> list[Output]:
        name = taken.envelope.execution_id
        self.started.append(name)
        if taken.envelope.task == Task.TASK_TOKENIZE:
            return [Output(name, (Event(tokenized=tokenize(pb.TokenizeRequest.FromString(taken.envelope.request))),))]
        if taken.envelope.task == Task.TASK_DETOKENIZE:
            request = pb.DetokenizeRequest.FromString(taken.envelope.request)
            return [Output(name, (Event(detokenized=detokenize(request)),))]
        if taken.envelope.task == Task.TASK_TRANSLATE:
            return self._begin_row(
                translation_row(name, TranslateStreamRequest.FromString(taken.envelope.request)), taken
            )
        if taken.envelope.task != Task.TASK_GENERATE:
            event, texts = perform(taken.envelope.task, taken.envelope.request)
            self.sizes.append(len(texts))
            if not any(text.startswith("wait") for text in texts):
                return [Output(name, (event,))]
            with self._changed:
                self.waiting[name] = (set(texts), event)
            return []
        return self._begin_row(row_of(name, pb.GenerateStreamRequest.FromString(taken.envelope.request)), taken)

    def _begin_row(self, row: Row, taken: Taken) -> list[Output]:
        name = row.name
        row.began = bool(taken.journal)
        row.done = sum(len(event.delta.token_ids) for event in taken.journal if event.HasField("delta"))
        if row.prompt.startswith("long"):
            wrong = errors.input_too_long("input.text", 10_000, MAX_INPUT_TOKENS)
            return [Output(name, (Event(failed=wrong.status),))]
        with self._changed:
            self.rows[name] = row
        return []

    def _advance(self, row: Row) -> tuple[Event, ...]:
        events: list[Event] = []
        if not row.began:
            row.began = True
            started = Started(
                execution_id=row.name, parameters=row.parameters, prompt_tokens=len(row.prompt.split()), model="toy@1"
            )
            events.append(Event(started=started))
        if row.held and row.prompt in self._released:
            row.hold_at = None
        for _ in range(row.a_step):
            if row.done < len(row.ids) and not row.held:
                identity = row.ids[row.done]
                text = text_of([identity]) + "x" * row.padding
                events.append(Event(delta=TokenDelta(token_ids=[identity], text=text)))
                row.done += 1
        if row.fails and row.done >= 2:
            return (*events, Event(failed=errors.internal().status))
        if row.done == len(row.ids) and not row.held:
            end = CandidateFinished(finish_reason=FINISH_REASON_LENGTH, score=row.score)
            events.append(Event(candidate_finished=end))
            usage = Usage(prompt_tokens=len(row.prompt.split()), completion_tokens=len(row.ids))
            timing = Timing(
                queue_us=1, tokenize_us=2, compute_us=3, total_us=6, worker_id=self._worker_id, batch_size=1
            )
            events.append(Event(finished=StreamFinished(usage=usage, timing=timing)))
        return tuple(events)

    def _timing(self) -> Timing:
        return Timing(queue_us=1, tokenize_us=2, compute_us=3, total_us=6, worker_id=self._worker_id, batch_size=1)


def ends(event: Event) -> bool:
    return is_terminal(event)


def translator_card(*directions: tuple[str, str]) -> Model:
    """A translation model; without `directions` between any two of its languages."""
    translator = card("translator", tasks=[Task.TASK_TRANSLATE])
    translator.ClearField("decoding_modes")
    for source, target in directions:
        translator.translation_directions.add(source_language=source, target_language=target)
    return translator


def translated_ids(text: str, source: str, target: str, tokens: int) -> list[int]:
    """What the worker makes of a text."""
    return expected_ids(f"{source}-{target} {text}", tokens)


def translation_row(name: str, request: TranslateStreamRequest) -> Row:
    row = row_of(name, request)
    given = request.input
    row.ids = translated_ids(given.text, given.language, request.target_language, len(row.ids))
    row.score = -0.5 if request.parameters.num_beams else None
    return row


def row_of(name: str, request: pb.GenerateStreamRequest | TranslateStreamRequest) -> Row:
    parameters = GenerationParameters()
    parameters.CopyFrom(request.parameters)
    if not parameters.HasField("max_new_tokens"):
        parameters.max_new_tokens = 64
    prompt = request.input.text
    row = Row(name, prompt, expected_ids(prompt, parameters.max_new_tokens), parameters=parameters)
    head = prompt.split(" ")[0]
    if head.startswith("hold:"):
        row.hold_at = int(head.removeprefix("hold:"))
    if head.startswith("burst:"):
        row.a_step = int(head.removeprefix("burst:"))
    if head.startswith("big:"):
        row.padding = int(head.removeprefix("big:"))
    row.fails = head == "fail"
    return row


def tokenize(request: pb.TokenizeRequest) -> pb.TokenizeResponse:
    outputs = []
    for number, given in enumerate(request.inputs):
        tokens, place = [], 0
        if given.text == "refuse":
            wrong = errors.invalid_input([(f"inputs[{number}].text", "the worker does not like it")])
            outputs.append(pb.TokenizeOutput(error=wrong.status))
            continue
        for word in given.text.split():
            start = given.text.index(word, place)
            place = start + len(word)
            tokens.append(Token(id=len(word), piece=word + "</w>", start=start, end=place))
        outputs.append(pb.TokenizeOutput(result=pb.TokenizeResult(tokens=tokens)))
    return pb.TokenizeResponse(outputs=outputs, timing=Timing(total_us=5, worker_id="w1", batch_size=1))


def detokenize(request: pb.DetokenizeRequest) -> pb.DetokenizeResponse:
    outputs = [pb.DetokenizeOutput(result=pb.DetokenizeResult(text=text_of(each.ids))) for each in request.inputs]
    return pb.DetokenizeResponse(outputs=outputs, timing=Timing(total_us=5, worker_id="w1", batch_size=1))


def _stopped(reason: Stop) -> Event:
    return failures.deadline_compute() if reason is Stop.EXPIRED else failures.cancelled()
