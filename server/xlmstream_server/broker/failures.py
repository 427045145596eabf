"""The terminal events that have one wording wherever they are written: by scripts, by gateways, by workers.

Scripts cannot build protobuf messages, so whoever calls them passes these along. They carry no execution id: a gateway
adds it to the metadata of every error it sends.
"""

from __future__ import annotations

import xlmstream.status as statuses
from xlmstream.v1.errors_pb2 import ErrorReason

from xlmstream_server.broker.v1.messages_pb2 import Event


def cancelled() -> Event:
    """Its caller cancelled it or went away."""
    return Event(failed=statuses.cancelled())


def deadline_queue() -> Event:
    """Its deadline passed before a worker took it."""
    return Event(failed=statuses.deadline_queue())


def deadline_compute() -> Event:
    """Its deadline passed while it ran."""
    return Event(failed=statuses.deadline_compute())


def poisoned() -> Event:
    """Workers died three times while it ran alone."""
    message = "this input repeatedly brought a worker down while it ran alone"
    return Event(failed=statuses.build(ErrorReason.ERROR_REASON_POISONED_INPUT, message))
