"""ModelService: what is served."""

from __future__ import annotations

from xlmstream.v1 import models_pb2 as pb
from xlmstream.v1.models_pb2_grpc import ModelServiceServicer

from xlmstream_server import errors
from xlmstream_server.call import CallMaker, Context
from xlmstream_server.catalogue import Catalogue


class ModelService(ModelServiceServicer):
    """Answers from the catalogue; never touches the broker."""

    def __init__(self, catalogue: Catalogue, calls: CallMaker) -> None:
        self._catalogue = catalogue
        self._calls = calls

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=self._cards())

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        if not request.name:
            raise errors.invalid_input([("name", "must name a model")])
        return pb.GetModelResponse(model=self._catalogue.find(request.name).card)

    async def WatchModels(self, request: pb.WatchModelsRequest, context: Context) -> None:  # type: ignore[override]  # a coroutine that writes
        call = self._calls.begin(context)
        last: list[pb.Model] | None = None
        while True:
            seen = self._catalogue.changed.count
            if self._calls.draining:
                raise errors.draining()
            if (cards := self._cards()) != last:
                await call.write(pb.WatchModelsResponse(models=cards))
                last = cards
            await self._catalogue.changed.beyond(seen)

    def _cards(self) -> list[pb.Model]:
        return [model.card for model in self._catalogue.models]
