"""What a worker's end remembers of each execution it owns: enough to repeat, and to fill up what the broker lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from google.rpc.code_pb2 import CANCELLED, DEADLINE_EXCEEDED

from xlmstream_server.broker.terminal import is_terminal
from xlmstream_server.broker.v1.messages_pb2 import Event
from xlmstream_server.broker.values import State


@dataclass(slots=True)
class Row:
    """An execution this worker owns: all of its events, each behind its length. The broker has the first `sent`."""

    shard: int
    gateway: bytes
    deadline_ms: int
    journaled: bool
    alone: bool
    events: list[bytes]
    sent: int
    final: str = ""
    # Whether the broker knows that it has made progress although nothing of it was sent.
    marked: bool = False

    def unsent(self) -> tuple[int, int, str, bytes] | None:
        """First event, number of events, mark and bytes to send; None where there is nothing to say."""
        if self.final or self.journaled:
            if self.sent == len(self.events):
                return None
            fresh = self.events[self.sent :]
            return self.sent, len(fresh), ("j" if self.journaled else "u") + self.final, b"".join(fresh)
        if self.events and not self.marked:
            return self.sent, 0, "u+", b""
        return None


def final_state(events: Sequence[Event]) -> str:
    """The terminal state the last event stands for, or ''."""
    if not (events and is_terminal(events[-1])):
        return ""
    if not events[-1].HasField("failed"):
        return State.DONE
    code = events[-1].failed.code
    return {CANCELLED: State.CANCELLED, DEADLINE_EXCEEDED: State.EXPIRED}.get(code, State.FAILED)
