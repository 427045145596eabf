"""Which events end an execution: all but those that tell of a generation on its way."""

from __future__ import annotations

from xlmstream_server.broker.v1.messages_pb2 import Event

_OPEN_KINDS = frozenset({None, "started", "delta", "candidate_finished"})


def is_terminal(event: Event) -> bool:
    """Whether nothing follows this event."""
    return event.WhichOneof("kind") not in _OPEN_KINDS
