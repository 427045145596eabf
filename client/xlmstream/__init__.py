"""xlmstream: the client of the XLM inference service.

    from xlmstream import Client

    with Client("127.0.0.1:50051") as client, client.generate_stream("In the beginning") as stream:
        for text in stream.text_deltas():
            print(text, end="", flush=True)

`AsyncClient` has the same verbs for asyncio; `xlmstream.errors` draws the tree of exceptions; `xlmstream.testing` has a
service for your own tests; `xlmstream.v1` holds the generated messages and stubs, which may be used without all this.
"""

from xlmstream.client import AsyncClient
from xlmstream.errors import (
    Cancelled,
    CursorExpired,
    DeadlineExceeded,
    DeadlineInCompute,
    DeadlineInQueue,
    DeviceOutOfMemory,
    Draining,
    FieldViolation,
    InputTooLong,
    InternalError,
    InvalidArgument,
    InvalidInput,
    MessageTooLarge,
    ModelNotFound,
    NotFound,
    NoWorker,
    PermissionDenied,
    PoisonedInput,
    ProtocolError,
    QueueDown,
    QueueFull,
    RequestIdReused,
    RequestNotFound,
    ResourceExhausted,
    TaskUnsupported,
    Unauthenticated,
    Unavailable,
    XlmstreamError,
)
from xlmstream.messages import (
    Candidate,
    CandidateFinished,
    Event,
    FinishReason,
    Generation,
    Started,
    StreamFinished,
    Timing,
    Token,
    TokenDelta,
    TokenLogprobs,
    Tokens,
    Usage,
)
from xlmstream.requests import Prompt
from xlmstream.retry import RetryPolicy
from xlmstream.sync import Client
from xlmstream.v1.common_pb2 import TextInput, TokenIds
from xlmstream.version import __version__

__all__ = [
    "AsyncClient",
    "Cancelled",
    "Candidate",
    "CandidateFinished",
    "Client",
    "CursorExpired",
    "DeadlineExceeded",
    "DeadlineInCompute",
    "DeadlineInQueue",
    "DeviceOutOfMemory",
    "Draining",
    "Event",
    "FieldViolation",
    "FinishReason",
    "Generation",
    "InputTooLong",
    "InternalError",
    "InvalidArgument",
    "InvalidInput",
    "MessageTooLarge",
    "ModelNotFound",
    "NoWorker",
    "NotFound",
    "PermissionDenied",
    "PoisonedInput",
    "Prompt",
    "ProtocolError",
    "QueueDown",
    "QueueFull",
    "RequestIdReused",
    "RequestNotFound",
    "ResourceExhausted",
    "RetryPolicy",
    "Started",
    "StreamFinished",
    "TaskUnsupported",
    "TextInput",
    "Timing",
    "Token",
    "TokenDelta",
    "TokenIds",
    "TokenLogprobs",
    "Tokens",
    "Unauthenticated",
    "Unavailable",
    "Usage",
    "XlmstreamError",
    "__version__",
]
