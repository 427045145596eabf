"""The terminal events that have one wording wherever they are written: by scripts, by gateways, by workers.

Scripts cannot build protobuf messages, so whoever calls them passes these along. They carry no execution id: a gateway
adds it to the metadata of every error it sends.
"""

from __future__ import annotations

from google.protobuf.any_pb2 import Any
from google.rpc.code_pb2 import CANCELLED as CODE_CANCELLED
from google.rpc.code_pb2 import DEADLINE_EXCEEDED, INTERNAL
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from xlmstream_server.broker.v1.messages_pb2 import Event


def _failed(code: int, reason: str, message: str) -> Event:
    detail = Any()
    detail.Pack(ErrorInfo(reason=reason, domain="xlmstream"))
    return Event(failed=Status(code=code, message=message, details=[detail]))


def cancelled() -> Event:
    """Its caller cancelled it or went away."""
    return _failed(CODE_CANCELLED, "CANCELLED", "the request was cancelled")


def deadline_queue() -> Event:
    """Its deadline passed before a worker took it."""
    return _failed(DEADLINE_EXCEEDED, "DEADLINE_QUEUE", "the deadline passed before a worker took the request")


def deadline_compute() -> Event:
    """Its deadline passed while it ran."""
    return _failed(DEADLINE_EXCEEDED, "DEADLINE_COMPUTE", "the deadline passed while the request ran")


def poisoned() -> Event:
    """Workers died three times while it ran alone."""
    return _failed(INTERNAL, "POISONED_INPUT", "this input repeatedly brought a worker down while it ran alone")
