"""grpc.health.v1 for "", each service, and each model as "model/<name>".

The servicer that ships with grpcio-health-checking is not used: it holds its lock while it writes to a watcher, so one
that does not read stops everybody's updates, and the first of two watchers to leave strands the other.
"""

from __future__ import annotations

from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthServicer

from xlmstream_server import errors
from xlmstream_server.call import CallMaker, Context
from xlmstream_server.catalogue import Catalogue

MODEL_PREFIX = "model/"

SERVING = HealthCheckResponse.SERVING
NOT_SERVING = HealthCheckResponse.NOT_SERVING


class HealthService(HealthServicer):  # type: ignore[misc]  # its module is untyped
    """Healthy means: a call made now can be accepted. False while the broker is away and once draining has begun."""

    def __init__(self, services: frozenset[str], catalogue: Catalogue, calls: CallMaker) -> None:
        self._services = services
        self._catalogue = catalogue
        self._calls = calls

    async def Check(self, request: HealthCheckRequest, context: Context) -> HealthCheckResponse:
        status = self.status(request.service)
        if status is None:
            raise errors.service_unknown(request.service)
        return HealthCheckResponse(status=status)

    async def Watch(self, request: HealthCheckRequest, context: Context) -> None:
        call = self._calls.begin(context)
        last: int | None = None
        while True:
            seen = self._catalogue.changed.count
            status = self.status(request.service)
            current = HealthCheckResponse.SERVICE_UNKNOWN if status is None else status
            if current != last:
                await call.write(HealthCheckResponse(status=current))
                last = current
            if self._calls.draining:
                raise errors.draining()
            await self._catalogue.changed.beyond(seen)

    def status(self, service: str) -> int | None:
        """The status of `service`; None where there is no such service or model."""
        if service.startswith(MODEL_PREFIX):
            named = [each for each in self._catalogue.models if each.card.name == service.removeprefix(MODEL_PREFIX)]
            if not named:
                return None
            able = any(model.card.workers for model in named)
        elif service == "" or service in self._services:
            able = True
        else:
            return None
        return int(SERVING if able and self._catalogue.broker_up() and not self._calls.draining else NOT_SERVING)
