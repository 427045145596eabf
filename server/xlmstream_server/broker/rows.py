"""What a worker's end remembers of each execution it owns: enough to repeat, and to fill up what the broker lost."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from google.rpc.code_pb2 import CANCELLED, DEADLINE_EXCEEDED

from xlmstream_server.broker import journal
from xlmstream_server.broker.connection import Argument, Reply
from xlmstream_server.broker.terminal import is_terminal
from xlmstream_server.broker.v1.messages_pb2 import Envelope, Event
from xlmstream_server.broker.values import Output, State, Taken


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


class HeldRows(dict[str, Row]):
    """The executions that a worker owns, by their ids."""

    def took(self, shard: int, now_ms: int, given: Sequence[Reply]) -> Taken:
        """One more, as take.lua gives it."""
        raw, events, attempt, alone, gateway = given
        assert isinstance(raw, bytes)
        assert isinstance(events, bytes)
        assert isinstance(attempt, int)
        assert isinstance(gateway, bytes)
        envelope = Envelope.FromString(raw)
        known = journal.split(events)
        self[envelope.execution_id] = Row(
            shard, gateway, envelope.deadline_ms, envelope.journaled, alone == 1, known, len(known)
        )
        return Taken(envelope, journal.decode(events), attempt, alone == 1, now_ms)

    def add(self, output: Output) -> None:
        """New events of one; dropped where it is no longer here, or has ended."""
        row = self.get(output.execution_id)
        if row is not None and not row.final:
            row.events.extend(journal.encode(event) for event in output.events)
            row.final = final_state(output.events)

    def news(self, shard: int, away: Container[bytes]) -> tuple[list[Argument], dict[str, int]]:
        """What emit.lua takes of those of a shard, a group for each gateway; and how many events of each the broker
        has if it arrives. Rows of gateways that are `away` are named in any case: the broker is to look at them.
        """
        groups: dict[bytes, list[Argument]] = {}
        sent: dict[str, int] = {}
        for execution_id, row in self.items():
            if row.shard != shard:
                continue
            group = groups.setdefault(row.gateway, [])
            unsent = row.unsent()
            if unsent is not None:
                group += (execution_id, *unsent)
                sent[execution_id] = unsent[0] + unsent[1]
            elif row.gateway in away:
                group += (execution_id, row.sent, 0, "j" if row.journaled else "u", b"")
        arguments: list[Argument] = []
        for gateway, group in groups.items():
            arguments += (gateway, len(group) // 5, *group)
        return arguments, sent

    def arrived(self, sent: Mapping[str, int]) -> None:
        """The broker has so many events of each; those that have ended are forgotten."""
        for execution_id, n_events in sent.items():
            row = self.get(execution_id)
            if row is not None:
                row.sent, row.marked = n_events, True
                if row.final:
                    del self[execution_id]

    def late(self, now_ms: int) -> list[str]:
        """Those whose deadline has passed."""
        return [execution_id for execution_id, row in self.items() if row.deadline_ms <= now_ms]
