"""What can go wrong, as exceptions: the only place where reasons and status codes become exception classes.

    XlmstreamError                      .reason .code .message .metadata .execution_id .request_id .retryable
    ├── InvalidArgument
    │   ├── InvalidInput                .field_violations
    │   └── InputTooLong                .tokens .max_tokens
    ├── NotFound
    │   ├── ModelNotFound               .models
    │   ├── RequestNotFound
    │   └── JobNotFound
    ├── RequestIdReused
    ├── JobIdReused
    ├── TaskUnsupported                 .tasks
    ├── JobStateConflict                .state
    ├── ResourceExhausted
    │   ├── QueueFull                   .retry_after_s
    │   ├── QuotaExceeded               .retry_after_s
    │   ├── MessageTooLarge
    │   └── DeviceOutOfMemory
    ├── Unavailable                     also: nothing answers at the address
    │   ├── NoWorker                    .retry_after_s
    │   ├── Draining                    .retry_after_s
    │   └── QueueDown                   .retry_after_s
    ├── DeadlineExceeded
    │   ├── DeadlineInQueue
    │   └── DeadlineInCompute
    ├── CursorExpired                   .earliest .next
    ├── UploadGap                       .items_committed
    ├── ChecksumMismatch
    ├── Cancelled
    ├── Unauthenticated
    ├── PermissionDenied
    ├── InternalError
    │   └── PoisonedInput
    └── ProtocolError                   the service broke its own contract

A reason or code that this version does not know becomes the nearest class above it, with `reason` as it was sent.
"""

from __future__ import annotations

from collections.abc import Mapping

import grpc

from xlmstream.base_error import FieldViolation as FieldViolation
from xlmstream.base_error import XlmstreamError as XlmstreamError


class InvalidArgument(XlmstreamError):
    """The request itself is wrong; sending it again cannot help."""

    default_code = grpc.StatusCode.INVALID_ARGUMENT


class InvalidInput(InvalidArgument):
    """A field is wrong; `field_violations` names each one and its limit."""


class InputTooLong(InvalidArgument):
    """More tokens than the model takes, and truncation is off."""

    @property
    def tokens(self) -> int | None:
        """Tokens of the input."""
        return self._figure("tokens")

    @property
    def max_tokens(self) -> int | None:
        """Most tokens that the model takes."""
        return self._figure("max")


class NotFound(XlmstreamError):
    """What the request names does not exist."""

    default_code = grpc.StatusCode.NOT_FOUND


class ModelNotFound(NotFound):
    """No such model is served."""

    @property
    def models(self) -> tuple[str, ...]:
        """The models that are served."""
        return self._names("models")


class RequestNotFound(NotFound):
    """No such request is known, or it has been forgotten."""


class JobNotFound(NotFound):
    """No such job is known, or its time is over."""


class RequestIdReused(XlmstreamError):
    """The request_id was used before, with other content."""

    default_code = grpc.StatusCode.ALREADY_EXISTS


class JobIdReused(XlmstreamError):
    """A job of this name exists, and was made with other content."""

    default_code = grpc.StatusCode.ALREADY_EXISTS


class TaskUnsupported(XlmstreamError):
    """The model cannot do this task."""

    default_code = grpc.StatusCode.FAILED_PRECONDITION

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that the model can do."""
        return self._names("tasks")


class JobStateConflict(XlmstreamError):
    """The state of the job forbids this."""

    default_code = grpc.StatusCode.FAILED_PRECONDITION

    @property
    def state(self) -> str:
        """The state that the job is in: "succeeded"."""
        return self.metadata.get("state", "").lower()


class ResourceExhausted(XlmstreamError):
    """Too much was asked for, or at once."""

    default_code = grpc.StatusCode.RESOURCE_EXHAUSTED


class QueueFull(ResourceExhausted):
    """The queue of the model is full; `retry_after_s` says when to try again."""


class QuotaExceeded(ResourceExhausted):
    """Your jobs hold as many bytes as your quota allows; deleting some makes room."""


class MessageTooLarge(ResourceExhausted):
    """The request message exceeds the service's limit: send fewer inputs at a time."""


class DeviceOutOfMemory(ResourceExhausted):
    """The device ran out of memory even with this input alone."""


class Unavailable(XlmstreamError):
    """The service cannot be reached, or cannot work now."""

    default_code = grpc.StatusCode.UNAVAILABLE


class NoWorker(Unavailable):
    """The model is known, but no worker serves it now."""


class Draining(Unavailable):
    """The gateway is shutting down; another one takes over."""


class QueueDown(Unavailable):
    """The gateway cannot reach its queue; nothing was accepted."""


class DeadlineExceeded(XlmstreamError):
    """The time limit of the call passed."""

    default_code = grpc.StatusCode.DEADLINE_EXCEEDED


class DeadlineInQueue(DeadlineExceeded):
    """The time limit passed before a worker took the request; nothing ran."""


class DeadlineInCompute(DeadlineExceeded):
    """The time limit passed while the request ran."""


class CursorExpired(XlmstreamError):
    """The events asked for are no longer, or not yet, there."""

    default_code = grpc.StatusCode.OUT_OF_RANGE

    @property
    def earliest(self) -> int | None:
        """Number of the first event that can be had."""
        return self._figure("earliest")

    @property
    def next(self) -> int | None:
        """Number of the event that will be produced next."""
        return self._figure("next")


class UploadGap(XlmstreamError):
    """Items are missing, before those that were uploaded or before the seal."""

    default_code = grpc.StatusCode.OUT_OF_RANGE

    @property
    def items_committed(self) -> int | None:
        """How many items the job has: where to continue."""
        return self._figure("items_committed")


class ChecksumMismatch(XlmstreamError):
    """Items arrived damaged; nothing of them was stored."""

    default_code = grpc.StatusCode.DATA_LOSS


class Cancelled(XlmstreamError):
    """The request was cancelled, or its client or stream was closed."""

    default_code = grpc.StatusCode.CANCELLED


class Unauthenticated(XlmstreamError):
    """The call carries no credential that the service accepts."""

    default_code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(XlmstreamError):
    """The credential does not allow this call."""

    default_code = grpc.StatusCode.PERMISSION_DENIED


class InternalError(XlmstreamError):
    """A defect of the service; `execution_id` finds it in the logs."""

    default_code = grpc.StatusCode.INTERNAL


class PoisonedInput(InternalError):
    """This input repeatedly brought a worker down while it ran alone."""


class ProtocolError(XlmstreamError):
    """The service broke its own contract, such as a gap in the numbering of events."""

    default_code = grpc.StatusCode.INTERNAL


BY_REASON: Mapping[str, type[XlmstreamError]] = {
    "INVALID_INPUT": InvalidInput,
    "INPUT_TOO_LONG": InputTooLong,
    "MESSAGE_TOO_LARGE": MessageTooLarge,
    "QUEUE_FULL": QueueFull,
    "TASK_UNSUPPORTED": TaskUnsupported,
    "MODEL_NOT_FOUND": ModelNotFound,
    "REQUEST_NOT_FOUND": RequestNotFound,
    "NO_WORKER": NoWorker,
    "DRAINING": Draining,
    "QUEUE_DOWN": QueueDown,
    "POISONED_INPUT": PoisonedInput,
    "DEVICE_OOM": DeviceOutOfMemory,
    "DEADLINE_QUEUE": DeadlineInQueue,
    "DEADLINE_COMPUTE": DeadlineInCompute,
    "CURSOR_EXPIRED": CursorExpired,
    "REQUEST_ID_REUSED": RequestIdReused,
    "CANCELLED": Cancelled,
    "INTERNAL": InternalError,
    "JOB_NOT_FOUND": JobNotFound,
    "JOB_ID_REUSED": JobIdReused,
    "JOB_STATE": JobStateConflict,
    "UPLOAD_GAP": UploadGap,
    "CHECKSUM_MISMATCH": ChecksumMismatch,
    "QUOTA_EXCEEDED": QuotaExceeded,
}

BY_CODE: Mapping[grpc.StatusCode, type[XlmstreamError]] = {
    kind.default_code: kind
    for kind in (
        InvalidArgument,
        NotFound,
        RequestIdReused,
        TaskUnsupported,
        ResourceExhausted,
        Unavailable,
        DeadlineExceeded,
        CursorExpired,
        Cancelled,
        Unauthenticated,
        PermissionDenied,
        InternalError,
    )
}
