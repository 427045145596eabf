"""What every failure of a call tells, whatever its kind, and whether the call may be repeated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import grpc


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of the request and what is wrong with it."""

    field: str
    """Path in the request, for example "inputs[3].text" or "parameters.top_p"."""
    description: str


class XlmstreamError(Exception):
    """Any failure of a call, as told by the service or met on the way to it."""

    default_code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN
    """The gRPC code that errors of this class come with."""

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode | None = None,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
        field_violations: Iterable[FieldViolation] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.reason = reason
        """A name of ErrorReason without its prefix; empty where the error is not the service's own."""
        self.metadata = dict(metadata or {})
        """Figures that belong to the reason; errors.proto names them."""
        self.retry_after_s = retry_after_s
        """Seconds to wait before trying again, where the service told."""
        self.field_violations = tuple(field_violations)
        self.request_id: str | None = None
        """The key of the request that failed, where it had one."""
        self.input_index: int | None = None
        """Which input of a call with several failed, from 0; None where the call as a whole did."""

    @property
    def execution_id(self) -> str | None:
        """The service's name of the request, to be found in its logs."""
        return self.metadata.get("execution_id")

    @property
    def retryable(self) -> bool:
        """Whether the same call may succeed a little later."""
        if self.reason:
            return self.retry_after_s is not None
        # Errors of the service always carry a reason; what has none failed in a connection or a proxy. The last is what
        # grpc.aio makes of any call that ends while a message is being written to it (grpc#36066).
        marks = ("RST_STREAM", "Internal error from Core")
        broken = self.code is grpc.StatusCode.INTERNAL and any(mark in self.message for mark in marks)
        return broken or self.code is grpc.StatusCode.UNAVAILABLE or self.retry_after_s is not None

    def __str__(self) -> str:
        tags = [self.reason or self.code.name]
        tags += [f"execution {self.execution_id}"] if self.execution_id else []
        tags += [f"request {self.request_id}"] if self.request_id else []
        return f"{self.message} [{', '.join(tags)}]"

    def _figure(self, key: str) -> int | None:
        value = self.metadata.get(key, "")
        return int(value) if value.isdigit() else None

    def _names(self, key: str) -> tuple[str, ...]:
        return tuple(name.strip() for name in self.metadata.get(key, "").split(",") if name.strip())
