"""Joins consecutive events into as few messages as possible: a message costs the gateway far more than a token.

Only neighbours that mean the same joined are joined: deltas of one candidate. So numbers depend on the journal alone,
and every listener, gateway and resume sees the same events whatever the messages they came in.
"""

from __future__ import annotations

from collections.abc import Sequence

from xlmstream.v1.generation_pb2 import Heartbeat, StreamEvent

from xlmstream_server.broker.v1.messages_pb2 import Event
from xlmstream_server.errors import ServiceError


def coalesce(first_event: int, events: Sequence[Event], resume_token: str) -> list[StreamEvent]:
    """The messages for events number `first_event` on, up to a failure.

    `resume_token` goes into Started, which leaves the worker without it.
    """
    messages: list[StreamEvent] = []
    for number, event in enumerate(events, first_event):
        kind = event.WhichOneof("kind")
        if kind == "delta":
            last = messages[-1] if messages else None
            if last is not None and last.HasField("delta") and last.delta.candidate == event.delta.candidate:
                last.delta.token_ids.extend(event.delta.token_ids)
                last.delta.text += event.delta.text
                last.delta.logprobs.extend(event.delta.logprobs)
                last.event_count += 1
            else:
                messages.append(StreamEvent(first_event=number, event_count=1, delta=event.delta))
        elif kind == "started":
            message = StreamEvent(first_event=number, event_count=1, started=event.started)
            message.started.resume_token = resume_token
            messages.append(message)
        elif kind == "candidate_finished":
            messages.append(StreamEvent(first_event=number, event_count=1, candidate_finished=event.candidate_finished))
        elif kind == "finished":
            messages.append(StreamEvent(first_event=number, event_count=1, finished=event.finished))
        else:
            break
    return messages


def heartbeat(next_event: int) -> StreamEvent:
    return StreamEvent(first_event=next_event, event_count=0, heartbeat=Heartbeat())


def failure(events: Sequence[Event]) -> ServiceError | None:
    """The error that the last of `events` ends the execution with, or None."""
    if events and events[-1].HasField("failed"):
        return ServiceError(events[-1].failed)
    return None
