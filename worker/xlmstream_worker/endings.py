"""How executions end: the events of those that the broker wants ended, and what the log says of all."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from xlmstream_server.broker import Stop, failures
from xlmstream_server.broker.v1.messages_pb2 import Event

from xlmstream_worker.observe import fields
from xlmstream_worker.rows import Row

log = logging.getLogger(__name__)

FAILURES: Mapping[Stop, Callable[[], Event]] = {
    Stop.CANCELLED: failures.cancelled,
    Stop.ORPHANED: failures.cancelled,
    Stop.EXPIRED: failures.deadline_compute,
}
"""The terminal event of a row that is to end; what the broker has lost gets none."""


def log_end(row: Row, event: Event) -> None:
    """One entry for a row and its terminal event, without a word of its text."""
    figures = fields(
        execution_id=row.execution_id,
        outcome=event.WhichOneof("kind") or "",
        attempt=row.taken.attempt,
        held_ms=round((time.monotonic() - row.taken_at) * 1000),
    )
    if event.HasField("finished"):
        figures["figures"]["completion_tokens"] = event.finished.usage.completion_tokens
    if event.HasField("failed"):
        figures["figures"]["code"] = event.failed.code
    log.info("ended", extra=figures)
