"""From an exception to an exit code and a message that says what to do next."""

from __future__ import annotations

from xlmstream.errors import (
    CursorExpired,
    DeadlineExceeded,
    InputTooLong,
    InvalidArgument,
    JobIdReused,
    JobNotFound,
    JobStateConflict,
    ModelNotFound,
    NotFound,
    NoWorker,
    PermissionDenied,
    QueueFull,
    QuotaExceeded,
    RequestIdReused,
    TaskUnsupported,
    Unauthenticated,
    Unavailable,
    XlmstreamError,
)

SERVICE_FAILED = 1
WRONG_INPUT = 2
UNREACHABLE = 3
TOO_LATE = 4

EXIT_CODES = """\
exit codes:
  0    done
  1    the service failed
  2    wrong usage or input, such as an unknown model or a parameter out of range
  3    the service cannot be reached or is too busy
  4    the time limit passed
  5    the job that was waited for has failed items
  6    the job that was waited for failed, was cancelled or expired
  130  interrupted
"""

_WRONG = (
    InvalidArgument,
    NotFound,
    TaskUnsupported,
    RequestIdReused,
    JobIdReused,
    JobStateConflict,
    CursorExpired,
    Unauthenticated,
    PermissionDenied,
)


def explain(error: XlmstreamError, address: str) -> tuple[int, str]:
    """The exit code of an error, and its message with a hint where one helps."""
    hint = _hint(error, address)
    return _code(error), f"{error}\n  {hint}" if hint else str(error)


def _code(error: XlmstreamError) -> int:
    if isinstance(error, _WRONG):
        return WRONG_INPUT
    if isinstance(error, Unavailable | QueueFull | QuotaExceeded):
        return UNREACHABLE
    return TOO_LATE if isinstance(error, DeadlineExceeded) else SERVICE_FAILED


def _hint(error: XlmstreamError, address: str) -> str:
    match error:
        case InputTooLong():
            return "Shorten the text, or let --truncation keep_start or keep_end cut it."
        case ModelNotFound():
            return "See what is served with: xlmstream models"
        case JobNotFound():
            return "See which there are with: xlmstream jobs list"
        case QuotaExceeded():
            return "Make room with: xlmstream jobs delete JOB"
        case NoWorker():
            return "Start a worker: xlmstream-worker --broker URL NAME=DIR"
        case QueueFull():
            return "Try again later, or start more workers."
        case DeadlineExceeded():
            return "Give it more time with --timeout, or ask for less with --max-new-tokens."
        case Unavailable(reason=""):
            return f"Nothing answers at {address}. Start a service with `xlmstream up`, or name one with --address."
        case _:
            return ""
