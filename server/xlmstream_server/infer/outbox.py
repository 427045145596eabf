"""From outcomes to messages: joined to as few as possible, in the order of the items where that is wanted."""

from __future__ import annotations

from collections import deque

from google.protobuf.message import Message
from google.rpc.status_pb2 import Status
from xlmstream.v1.generation_pb2 import TokenDelta
from xlmstream.v1.inference_pb2 import InferEvent, InferStreamResponse

from xlmstream_server.infer.batch import Item

# A message is closed beyond this: well below the 4 MiB that clients in other languages take by default.
MESSAGE_BYTES = 512 << 10


class Outbox:
    """What one stream has to tell and has not told yet."""

    def __init__(self) -> None:
        self.ordered = False
        self._messages: deque[InferStreamResponse] = deque()
        self._size_bytes = 0
        self._credit = 0
        self._order: deque[Item] = deque()
        self._outputs = self._errors = 0

    def __bool__(self) -> bool:
        return bool(self._messages)

    def __len__(self) -> int:
        """Messages to be sent."""
        return len(self._messages)

    @property
    def expected(self) -> int:
        """In an ordered stream, items whose outputs have not been told, ready or not."""
        return len(self._order)

    def open(self, credit: int, *, ordered: bool) -> None:
        self.ordered = ordered
        self._event().opened.credit = credit

    def expect(self, item: Item) -> None:
        """An item has come; in an ordered stream its outcome follows those of the items before it."""
        if self.ordered:
            self._order.append(item)

    def settle(self, item: Item, branch: str, outcome: Message) -> None:
        """Tell what came of an item: its result, or its Status as the branch "error"."""
        item.done = True
        if not self.ordered or not item.credited:
            self._output(item, branch, outcome)
            return
        item.held = (branch, outcome)
        while self._order and self._order[0].held:
            first = self._order.popleft()
            assert first.held is not None
            self._output(first, *first.held)
            first.held = None

    def fail(self, item: Item, status: Status) -> None:
        self.settle(item, "error", status)

    def delta(self, item: Item, first_token: int, delta: TokenDelta) -> None:
        told = self._event().delta
        told.correlation_id, told.first_token = item.correlation_id, first_token
        told.delta.CopyFrom(delta)
        self._size_bytes += delta.ByteSize()

    def finish(self) -> None:
        """Everything is answered."""
        self._give_credit()
        finished = self._event().finished
        finished.outputs, finished.errors = self._outputs, self._errors

    def take(self) -> InferStreamResponse:
        """The next message, with the credit that its outputs and those before it give back."""
        self._give_credit()
        message = self._messages.popleft()
        if not self._messages:
            self._size_bytes = 0
        return message

    def _output(self, item: Item, branch: str, outcome: Message) -> None:
        output = self._event().output
        output.correlation_id = item.correlation_id
        getattr(output, branch).CopyFrom(outcome)
        self._size_bytes += outcome.ByteSize()
        self._credit += item.credited
        self._outputs += 1
        self._errors += branch == "error"

    def _give_credit(self) -> None:
        if self._credit:
            self._event().credit.items = self._credit
            self._credit = 0

    def _event(self) -> InferEvent:
        if not self._messages or self._size_bytes > MESSAGE_BYTES:
            self._messages.append(InferStreamResponse())
            self._size_bytes = 0
        return self._messages[-1].events.add()
