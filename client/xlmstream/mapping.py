"""What `map` knows about itself: which inputs are on the way, what to send next, which results are due. No IO.

The blocking and the asyncio client share it. Each item's number is its place among the inputs; a stream that breaks is
opened anew and everything unfinished is sent again under the same numbers, generations under the same keys, so that the
service joins them to their first sending.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from xlmstream import requests
from xlmstream.errors import Draining, ProtocolError, XlmstreamError
from xlmstream.failures import from_status
from xlmstream.requests import options_of
from xlmstream.retry import RetryPolicy
from xlmstream.tasks import Task
from xlmstream.v1.common_pb2 import DisconnectPolicy
from xlmstream.v1.inference_pb2 import (
    InferAction,
    InferCancel,
    InferItem,
    InferOpen,
    InferOutput,
    InferStreamRequest,
    InferStreamResponse,
)

Result = TypeVar("Result")

# In order, results wait for those before them: how many times `max_in_flight` may wait before no more inputs are taken.
HELD_FACTOR = 4
# A message of requests is closed beyond this; the service takes 4 MiB.
MESSAGE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Mapped(Generic[Result]):
    """What came of one input of `map`."""

    index: int
    """Its place among the inputs, from 0."""
    input: Any
    """The input as it was given."""
    error: XlmstreamError | None
    """Why it failed; None where it did not."""
    value: Result | None = field(repr=False)

    @property
    def result(self) -> Result:
        """Raises `error` where there is one."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]  # without an error there is a result


@dataclass(slots=True)
class _Entry:
    given: Any
    item: InferItem
    failures: int = 0


class MapState(Generic[Result]):
    """How far one `map` has come.

    Attributes:
        pause_s: how long the service wants to be left alone before the next items; take it to wait.
        moving: whether this gateway goes away: end the requests, read to the end, open another stream.
    """

    def __init__(
        self,
        task: Task,
        inputs: Iterable[Any],
        keywords: Mapping[str, Any],
        policy: RetryPolicy,
        *,
        ordered: bool,
        max_in_flight: int,
    ) -> None:
        if max_in_flight < 1:
            raise ValueError(f"max_in_flight must be 1 or more, not {max_in_flight}")
        self.pause_s = 0.0
        self.moving = False
        self._task = task
        self._inputs = enumerate(inputs)
        self._shared = task.shared(keywords)
        self._keywords = keywords
        self._policy = policy
        self._ordered = ordered
        self._max_in_flight = max_in_flight
        self._exhausted = False
        self._credit = 0
        self._open: dict[int, _Entry] = {}
        self._unsent: deque[int] = deque()
        self._held: dict[int, Mapped[Result]] = {}
        self._due: deque[Mapped[Result]] = deque()
        self._next_due = 0
        self._options = options_of(
            keywords,  # type: ignore[arg-type]  # of every task, checked above
            request_id=requests.new_request_id(),
        )
        if self.resumable:
            self._options.disconnect_policy = DisconnectPolicy.DISCONNECT_POLICY_DETACH

    @property
    def resumable(self) -> bool:
        """Whether the work goes on for a while when a stream breaks, so that leaving has to be told."""
        return self._task.branch in ("generate", "translate")

    @property
    def finished(self) -> bool:
        """Whether every input has been taken and answered."""
        return self._exhausted and not self._open

    @property
    def has_due(self) -> bool:
        return bool(self._due)

    def due(self) -> Mapped[Result] | None:
        """The next result to hand out."""
        return self._due.popleft() if self._due else None

    def opening(self) -> InferStreamRequest:
        """The first message of a new stream; everything unfinished will be sent over it."""
        self._credit = 0
        self.moving = False
        self._unsent = deque(sorted(self._open))
        return InferStreamRequest(actions=[InferAction(open=InferOpen(options=self._options))])

    def next_message(self) -> InferStreamRequest | None:
        """The items that may be sent now, as one message; None where there are none."""
        if self.pause_s or self.moving:
            return None
        message, size_bytes = InferStreamRequest(), 0
        while self._credit and size_bytes < MESSAGE_BYTES and (entry := self._next_entry()) is not None:
            message.actions.add().item.CopyFrom(entry.item)
            size_bytes += entry.item.ByteSize()
            self._credit -= 1
        return message if message.actions else None

    def farewell(self) -> InferStreamRequest:
        """Tells the service that nobody waits for the rest."""
        return InferStreamRequest(actions=[InferAction(cancel=InferCancel())])

    def accept(self, message: InferStreamResponse) -> bool:
        """Take in one message; whether it had outputs."""
        progressed = False
        for event in message.events:
            match event.WhichOneof("event"):
                case "opened":
                    self._credit += event.opened.credit
                case "credit":
                    self._credit += event.credit.items
                case "output":
                    progressed |= self._output(event.output)
        return progressed

    def _next_entry(self) -> _Entry | None:
        if self._unsent:
            return self._open[self._unsent.popleft()]
        waiting = len(self._open) + len(self._held) + len(self._due)
        full = len(self._open) >= self._max_in_flight or waiting >= HELD_FACTOR * self._max_in_flight
        if self._exhausted or full:
            return None
        return self._take_input()

    def _take_input(self) -> _Entry | None:
        for index, given in self._inputs:
            try:
                content = self._task.input_of(given, self._keywords, "input")  # type: ignore[arg-type]
            except XlmstreamError as wrong:
                self._settle(Mapped(index, given, wrong, None))
                return None  # handed out before more is taken
            item = InferItem(correlation_id=index)
            carrier: Any = getattr(item, self._task.branch)
            carrier.MergeFrom(type(carrier)(input=content, **self._shared))
            self._open[index] = _Entry(given, item)
            return self._open[index]
        self._exhausted = True
        return None

    def _output(self, output: InferOutput) -> bool:
        """Whether the item is finished; one that is worth another try is not."""
        index = output.correlation_id
        entry = self._open.get(index)
        if entry is None:
            raise ProtocolError(f"the service answered item {index}, which is not unfinished")
        branch = output.WhichOneof("outcome")
        if branch == "error":
            error = from_status(output.error)
            error.input_index = index
            entry.failures += 1
            if error.retryable and entry.failures < self._policy.max_attempts:
                self._unsent.append(index)
                self.moving = self.moving or isinstance(error, Draining)
                backoff_s = self._policy.initial_backoff_s * 2.0 ** (entry.failures - 1)
                self.pause_s = max(self.pause_s, error.retry_after_s or 0.0, min(backoff_s, self._policy.max_backoff_s))
                return False
            del self._open[index]
            self._settle(Mapped(index, entry.given, error, None))
        elif branch == self._task.branch:
            del self._open[index]
            self._settle(Mapped(index, entry.given, None, self._task.result_of(getattr(output, branch))))
        else:
            raise ProtocolError(f"the service answered item {index} with {branch}")
        return True

    def _settle(self, mapped: Mapped[Result]) -> None:
        if not self._ordered:
            self._due.append(mapped)
            return
        self._held[mapped.index] = mapped
        while (following := self._held.pop(self._next_due, None)) is not None:
            self._due.append(following)
            self._next_due += 1


def messages_of(queue: Any) -> Iterator[InferStreamRequest]:
    """What a queue brings, up to None: the requests of a blocking call."""
    return iter(queue.get, None)
