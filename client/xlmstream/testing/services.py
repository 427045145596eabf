# ruff: noqa: N802 - the methods bear the names of the rpcs
"""The gRPC services of the fake: each rpc asks the stage and wraps what it gets."""

from __future__ import annotations

from collections.abc import Iterator

import grpc

from xlmstream.testing.script import Failure, generate
from xlmstream.testing.stage import Stage, abort
from xlmstream.v1 import inference_pb2 as inference
from xlmstream.v1 import models_pb2 as models
from xlmstream.v1 import server_pb2 as server
from xlmstream.v1.generation_pb2 import GenerateOutput
from xlmstream.v1.inference_pb2_grpc import InferenceServiceServicer
from xlmstream.v1.models_pb2_grpc import ModelServiceServicer
from xlmstream.v1.server_pb2_grpc import ServerServiceServicer


class InferenceService(InferenceServiceServicer):
    """Answers from the script; streams are journals that can be resumed."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def Generate(self, request: inference.GenerateRequest, context: grpc.ServicerContext) -> inference.GenerateResponse:
        self._stage.receive(request, "Generate", context)
        outputs = []
        for one in request.inputs:
            prompt = self._stage.prompt_of(one)
            answer = self._stage.answer(prompt)
            if isinstance(answer, Failure):
                outputs.append(GenerateOutput(error=answer.to_status()))
            else:
                result = generate(self._stage.words, prompt, answer, request.parameters)
                outputs.append(GenerateOutput(result=result))
        return inference.GenerateResponse(outputs=outputs)

    def GenerateStream(
        self, request: inference.GenerateStreamRequest, context: grpc.ServicerContext
    ) -> Iterator[inference.GenerateStreamResponse]:
        fault = self._stage.receive(request, "GenerateStream", context)
        run = self._stage.run(request, context)
        for event in self._stage.follow(run, 0, fault, context):
            yield inference.GenerateStreamResponse(event=event)

    def ResumeStream(
        self, request: inference.ResumeStreamRequest, context: grpc.ServicerContext
    ) -> Iterator[inference.ResumeStreamResponse]:
        fault = self._stage.receive(request, "ResumeStream", context)
        run = self._stage.resumed(request, context)
        for event in self._stage.follow(run, request.next_event, fault, context):
            yield inference.ResumeStreamResponse(event=event)

    def CancelRequest(
        self, request: inference.CancelRequestRequest, context: grpc.ServicerContext
    ) -> inference.CancelRequestResponse:
        self._stage.receive(request, "CancelRequest", context)
        return inference.CancelRequestResponse(cancelled=self._stage.cancel(request, context))

    def Tokenize(self, request: inference.TokenizeRequest, context: grpc.ServicerContext) -> inference.TokenizeResponse:
        self._stage.receive(request, "Tokenize", context)
        results = [inference.TokenizeResult(tokens=self._stage.words.tokens(one.text)) for one in request.inputs]
        return inference.TokenizeResponse(outputs=[inference.TokenizeOutput(result=one) for one in results])

    def Detokenize(
        self, request: inference.DetokenizeRequest, context: grpc.ServicerContext
    ) -> inference.DetokenizeResponse:
        self._stage.receive(request, "Detokenize", context)
        results = [inference.DetokenizeResult(text=self._stage.words.text(one.ids)) for one in request.inputs]
        return inference.DetokenizeResponse(outputs=[inference.DetokenizeOutput(result=one) for one in results])


class ModelService(ModelServiceServicer):
    """Lists the models of the stage."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def ListModels(self, request: models.ListModelsRequest, context: grpc.ServicerContext) -> models.ListModelsResponse:
        self._stage.receive(request, "ListModels", context)
        return models.ListModelsResponse(models=self._stage.models)

    def GetModel(self, request: models.GetModelRequest, context: grpc.ServicerContext) -> models.GetModelResponse:
        self._stage.receive(request, "GetModel", context)
        for model in self._stage.models:
            if request.name in (model.name, f"{model.name}@{model.version}"):
                return models.GetModelResponse(model=model)
        names = ", ".join(f"{model.name}@{model.version}" for model in self._stage.models)
        return abort(context, Failure("MODEL_NOT_FOUND", f"no model {request.name!r}", metadata={"models": names}))

    def WatchModels(
        self, request: models.WatchModelsRequest, context: grpc.ServicerContext
    ) -> Iterator[models.WatchModelsResponse]:
        fault = self._stage.receive(request, "WatchModels", context)
        for sent, now in enumerate(self._stage.watch(context)):
            if fault is not None and sent == fault.after_messages:
                abort(context, fault.failure)
            yield models.WatchModelsResponse(models=now)


class ServerService(ServerServiceServicer):
    """A gateway without load."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def GetServerInfo(
        self, request: server.GetServerInfoRequest, context: grpc.ServicerContext
    ) -> server.GetServerInfoResponse:
        self._stage.receive(request, "GetServerInfo", context)
        limits = server.ServerLimits(
            max_inputs=256,
            max_text_bytes=65_536,
            max_message_bytes=4_194_304,
            max_new_tokens=512,
            default_deadline_s=600,
            max_deadline_s=3600,
        )
        return server.GetServerInfoResponse(version="fake", limits=limits, gateway_id="fake")

    def GetLoad(self, request: server.GetLoadRequest, context: grpc.ServicerContext) -> server.GetLoadResponse:
        self._stage.receive(request, "GetLoad", context)
        names = [f"{model.name}@{model.version}" for model in self._stage.models]
        loads = [server.ModelLoad(model=name, workers=1, free_slots=8) for name in names]
        return server.GetLoadResponse(models=loads)
