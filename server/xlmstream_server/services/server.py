"""ServerService: the gateway about itself and about the queue."""

from __future__ import annotations

from xlmstream.v1 import server_pb2 as pb
from xlmstream.v1.server_pb2_grpc import ServerServiceServicer
from xlmstream.version import __version__

from xlmstream_server import errors
from xlmstream_server.broker import BrokerError, GatewayBroker, ModelQueue
from xlmstream_server.call import Context
from xlmstream_server.catalogue import Catalogue
from xlmstream_server.config import Limits


class ServerService(ServerServiceServicer):
    def __init__(self, broker: GatewayBroker, catalogue: Catalogue, limits: Limits) -> None:
        self._broker = broker
        self._catalogue = catalogue
        self._info = pb.GetServerInfoResponse(
            version=__version__,
            limits=pb.ServerLimits(
                max_inputs=limits.max_inputs,
                max_text_bytes=limits.max_text_bytes,
                max_message_bytes=limits.max_message_bytes,
                max_new_tokens=limits.max_new_tokens,
                default_deadline_s=limits.default_deadline_s,
                max_deadline_s=limits.max_deadline_s,
                max_stream_items=limits.max_stream_items,
            ),
            gateway_id=broker.gateway_id,
        )

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Context) -> pb.GetServerInfoResponse:
        return self._info

    async def GetLoad(self, request: pb.GetLoadRequest, context: Context) -> pb.GetLoadResponse:
        models = [self._catalogue.find(request.model)] if request.model else self._catalogue.models
        try:
            waiting = {queue.model: queue for queue in await self._broker.load()}
        except BrokerError as cause:
            raise errors.queue_down() from cause
        loads = []
        for model in models:
            queue = waiting.get(model.full_name) or ModelQueue(model.full_name, 0, 0, 0, 0.0)
            loads.append(
                pb.ModelLoad(
                    model=model.full_name,
                    queued_requests=queue.requests,
                    queued_tokens=queue.tokens,
                    oldest_wait_s=queue.oldest_wait_s,
                    workers=model.card.workers,
                    free_slots=max(0, model.slots - model.busy_slots),
                    busy_slots=model.busy_slots,
                )
            )
        return pb.GetLoadResponse(models=loads)
