"""The queue protocol, both ends of it: keys, Lua scripts and the Python calls around them.

A gateway submits executions and follows their events (`GatewayBroker`); a worker takes them and publishes events
(`WorkerBroker`). Everything between lives in one Redis or Valkey.
"""

from xlmstream_server.broker.errors import (
    BrokerDown,
    BrokerError,
    BrokerMisconfigured,
    Fenced,
    NotFound,
    QueueFull,
    RequestIdReused,
)
from xlmstream_server.broker.gateway import GatewayBroker
from xlmstream_server.broker.terminal import is_terminal
from xlmstream_server.broker.values import (
    Arrival,
    Audited,
    Followed,
    ModelQueue,
    Output,
    Published,
    QueueLimits,
    Registered,
    State,
    Stop,
    Submitted,
    Taken,
)
from xlmstream_server.broker.worker import WorkerBroker

__all__ = [
    "Arrival",
    "Audited",
    "BrokerDown",
    "BrokerError",
    "BrokerMisconfigured",
    "Fenced",
    "Followed",
    "GatewayBroker",
    "ModelQueue",
    "NotFound",
    "Output",
    "Published",
    "QueueFull",
    "QueueLimits",
    "Registered",
    "RequestIdReused",
    "State",
    "Stop",
    "Submitted",
    "Taken",
    "WorkerBroker",
    "is_terminal",
]
