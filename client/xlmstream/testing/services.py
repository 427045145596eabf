# ruff: noqa: N802 - the methods bear the names of the rpcs
"""The gRPC services of the fake: each rpc asks the stage and wraps what it gets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import grpc
from google.rpc.status_pb2 import Status

from xlmstream.testing.script import Failure, generate
from xlmstream.testing.stage import Fault, Stage, abort
from xlmstream.testing.tasks import PERFORM, text_of, with_cost
from xlmstream.v1 import classification_pb2 as classification
from xlmstream.v1 import inference_pb2 as inference
from xlmstream.v1 import models_pb2 as models
from xlmstream.v1 import server_pb2 as server
from xlmstream.v1.embedding_pb2 import EmbedOutput, EmbedRequest, EmbedResponse
from xlmstream.v1.fill_mask_pb2 import FillMaskOutput, FillMaskRequest, FillMaskResponse
from xlmstream.v1.generation_pb2 import GenerateOutput
from xlmstream.v1.inference_pb2_grpc import InferenceServiceServicer
from xlmstream.v1.models_pb2_grpc import ModelServiceServicer
from xlmstream.v1.question_answering_pb2 import AnswerQuestionOutput, AnswerQuestionRequest, AnswerQuestionResponse
from xlmstream.v1.scoring_pb2 import ScoreOutput, ScoreRequest, ScoreResponse
from xlmstream.v1.server_pb2_grpc import ServerServiceServicer
from xlmstream.v1.translation_pb2 import (
    TranslateOutput,
    TranslateRequest,
    TranslateResponse,
    TranslateStreamRequest,
    TranslateStreamResponse,
)


class InferenceService(InferenceServiceServicer):
    """Answers from the script; streams are journals that can be resumed."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def Generate(self, request: inference.GenerateRequest, context: grpc.ServicerContext) -> inference.GenerateResponse:
        return inference.GenerateResponse(outputs=self._outputs("Generate", "generate", request, context))

    def GenerateStream(
        self, request: inference.GenerateStreamRequest, context: grpc.ServicerContext
    ) -> Iterator[inference.GenerateStreamResponse]:
        fault = self._stage.receive(request, "GenerateStream", context)
        run = self._stage.run(request, context)
        for event in self._stage.follow(run, 0, fault, context):
            yield inference.GenerateStreamResponse(event=event)

    def Translate(self, request: TranslateRequest, context: grpc.ServicerContext) -> TranslateResponse:
        return TranslateResponse(outputs=self._outputs("Translate", "translate", request, context))

    def TranslateStream(
        self, request: TranslateStreamRequest, context: grpc.ServicerContext
    ) -> Iterator[TranslateStreamResponse]:
        fault = self._stage.receive(request, "TranslateStream", context)
        run = self._stage.run(request, context)
        for event in self._stage.follow(run, 0, fault, context):
            yield TranslateStreamResponse(event=event)

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

    def Embed(self, request: EmbedRequest, context: grpc.ServicerContext) -> EmbedResponse:
        return EmbedResponse(outputs=self._outputs("Embed", "embed", request, context))

    def FillMask(self, request: FillMaskRequest, context: grpc.ServicerContext) -> FillMaskResponse:
        return FillMaskResponse(outputs=self._outputs("FillMask", "fill_mask", request, context))

    def ClassifySequence(
        self, request: classification.ClassifySequenceRequest, context: grpc.ServicerContext
    ) -> classification.ClassifySequenceResponse:
        return classification.ClassifySequenceResponse(
            outputs=self._outputs("ClassifySequence", "classify_sequence", request, context)
        )

    def ClassifyTokens(
        self, request: classification.ClassifyTokensRequest, context: grpc.ServicerContext
    ) -> classification.ClassifyTokensResponse:
        return classification.ClassifyTokensResponse(
            outputs=self._outputs("ClassifyTokens", "classify_tokens", request, context)
        )

    def AnswerQuestion(self, request: AnswerQuestionRequest, context: grpc.ServicerContext) -> AnswerQuestionResponse:
        return AnswerQuestionResponse(outputs=self._outputs("AnswerQuestion", "answer_question", request, context))

    def ChooseMultiple(
        self, request: classification.ChooseMultipleRequest, context: grpc.ServicerContext
    ) -> classification.ChooseMultipleResponse:
        return classification.ChooseMultipleResponse(
            outputs=self._outputs("ChooseMultiple", "choose_multiple", request, context)
        )

    def Score(self, request: ScoreRequest, context: grpc.ServicerContext) -> ScoreResponse:
        return ScoreResponse(outputs=self._outputs("Score", "score", request, context))

    def Tokenize(self, request: inference.TokenizeRequest, context: grpc.ServicerContext) -> inference.TokenizeResponse:
        return inference.TokenizeResponse(outputs=self._outputs("Tokenize", "tokenize", request, context))

    def Detokenize(
        self, request: inference.DetokenizeRequest, context: grpc.ServicerContext
    ) -> inference.DetokenizeResponse:
        return inference.DetokenizeResponse(outputs=self._outputs("Detokenize", "detokenize", request, context))

    def InferStream(
        self, request_iterator: Iterator[inference.InferStreamRequest], context: grpc.ServicerContext
    ) -> Iterator[inference.InferStreamResponse]:
        fault: Fault | None = None
        for number, request in enumerate(request_iterator):
            if number == 0:
                fault = self._stage.receive(request, "InferStream", context)
            else:
                self._stage.note(request)
            if fault is not None and number >= fault.after_messages:
                abort(context, fault.failure)
            response = inference.InferStreamResponse()
            for action in request.actions:
                if action.HasField("open"):
                    response.events.add().opened.credit = self._stage.window
                elif action.HasField("item"):
                    response.events.add().output.CopyFrom(self._output(action.item))
                    response.events.add().credit.items = 1
            yield response
        yield inference.InferStreamResponse(events=[inference.InferEvent(finished=inference.InferFinished())])

    def _output(self, item: inference.InferItem) -> inference.InferOutput:
        output = inference.InferOutput(correlation_id=item.correlation_id)
        branch = item.WhichOneof("task") or ""
        content: Any = getattr(item, branch)
        outcome = perform(self._stage, branch, content.input, getattr(content, "parameters", None))
        getattr(output, "error" if isinstance(outcome, Status) else branch).CopyFrom(outcome)
        return output

    def _outputs(self, method: str, branch: str, request: Any, context: grpc.ServicerContext) -> list[Any]:
        self._stage.receive(request, method, context)
        parameters = getattr(request, "parameters", None)
        kind = OUTPUTS[branch]
        return [
            kind(error=outcome) if isinstance(outcome, Status) else kind(result=outcome)
            for outcome in (perform(self._stage, branch, given, parameters) for given in request.inputs)
        ]


def perform(stage: Stage, branch: str, given: Any, parameters: Any) -> Any:
    """The result of one input, or the Status that the script has for it."""
    if branch in ("generate", "translate"):
        prompt = stage.prompt_of(given)
        answer = stage.answer(prompt)
        return answer.to_status() if isinstance(answer, Failure) else generate(stage.words, prompt, answer, parameters)
    text = text_of(given)
    failure = stage.failure_of(text)
    return failure.to_status() if failure else with_cost(PERFORM[branch](stage.words, given, parameters), text)


OUTPUTS: Mapping[str, Any] = {
    "generate": GenerateOutput,
    "translate": TranslateOutput,
    "embed": EmbedOutput,
    "fill_mask": FillMaskOutput,
    "classify_sequence": classification.ClassifySequenceOutput,
    "classify_tokens": classification.ClassifyTokensOutput,
    "answer_question": AnswerQuestionOutput,
    "choose_multiple": classification.ChooseMultipleOutput,
    "score": ScoreOutput,
    "tokenize": inference.TokenizeOutput,
    "detokenize": inference.DetokenizeOutput,
}


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
