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
from xlmstream.mapping import Mapped
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
from xlmstream.results import (
    Answer,
    Answers,
    Choice,
    ChoiceScore,
    Classification,
    Embedding,
    FilledMask,
    LabelScore,
    Mask,
    MaskCandidate,
    Score,
    ScoredToken,
    Span,
    Tagging,
    TokenScores,
)
from xlmstream.retry import RetryPolicy
from xlmstream.sync import Client
from xlmstream.tasks import Choices, Question, TextPair
from xlmstream.tensor import Tensor
from xlmstream.v1.common_pb2 import TextInput, TokenIds
from xlmstream.version import __version__

__all__ = [
    "Answer",
    "Answers",
    "AsyncClient",
    "Cancelled",
    "Candidate",
    "CandidateFinished",
    "Choice",
    "ChoiceScore",
    "Choices",
    "Classification",
    "Client",
    "CursorExpired",
    "DeadlineExceeded",
    "DeadlineInCompute",
    "DeadlineInQueue",
    "DeviceOutOfMemory",
    "Draining",
    "Embedding",
    "Event",
    "FieldViolation",
    "FilledMask",
    "FinishReason",
    "Generation",
    "InputTooLong",
    "InternalError",
    "InvalidArgument",
    "InvalidInput",
    "LabelScore",
    "Mapped",
    "Mask",
    "MaskCandidate",
    "MessageTooLarge",
    "ModelNotFound",
    "NoWorker",
    "NotFound",
    "PermissionDenied",
    "PoisonedInput",
    "Prompt",
    "ProtocolError",
    "Question",
    "QueueDown",
    "QueueFull",
    "RequestIdReused",
    "RequestNotFound",
    "ResourceExhausted",
    "RetryPolicy",
    "Score",
    "ScoredToken",
    "Span",
    "Started",
    "StreamFinished",
    "Tagging",
    "TaskUnsupported",
    "Tensor",
    "TextInput",
    "TextPair",
    "Timing",
    "Token",
    "TokenDelta",
    "TokenIds",
    "TokenLogprobs",
    "TokenScores",
    "Tokens",
    "Unauthenticated",
    "Unavailable",
    "Usage",
    "XlmstreamError",
    "__version__",
]
