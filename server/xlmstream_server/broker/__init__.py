"""The queue protocol, both ends of it: keys, Lua scripts and the Python calls around them.

A gateway submits executions and follows their events (`GatewayBroker`), and keeps jobs (`GatewayBroker.jobs`); a worker
takes executions and chunks of jobs and publishes events and results (`WorkerBroker`). Everything between lives in one
Redis or Valkey.
"""

from xlmstream_server.broker.bell import Bell
from xlmstream_server.broker.errors import (
    BrokerDown,
    BrokerError,
    BrokerMisconfigured,
    CursorInvalid,
    Fenced,
    JobIdReused,
    JobNotFound,
    JobQuotaExceeded,
    JobStateForbids,
    NotFound,
    QueueFull,
    RequestIdReused,
    UploadGap,
)
from xlmstream_server.broker.gateway import GatewayBroker
from xlmstream_server.broker.job_values import (
    ChunkItem,
    ErrorCount,
    ItemResult,
    JobBacklog,
    JobLimits,
    JobRecord,
    ResultPage,
    TakenChunk,
)
from xlmstream_server.broker.jobs import JobStore
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
    "Bell",
    "BrokerDown",
    "BrokerError",
    "BrokerMisconfigured",
    "ChunkItem",
    "CursorInvalid",
    "ErrorCount",
    "Fenced",
    "Followed",
    "GatewayBroker",
    "ItemResult",
    "JobBacklog",
    "JobIdReused",
    "JobLimits",
    "JobNotFound",
    "JobQuotaExceeded",
    "JobRecord",
    "JobStateForbids",
    "JobStore",
    "ModelQueue",
    "NotFound",
    "Output",
    "Published",
    "QueueFull",
    "QueueLimits",
    "Registered",
    "RequestIdReused",
    "ResultPage",
    "State",
    "Stop",
    "Submitted",
    "Taken",
    "TakenChunk",
    "UploadGap",
    "WorkerBroker",
    "is_terminal",
]
