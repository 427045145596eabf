"""InferenceService: typed tasks, streams, cancellation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from typing import Any

from google.protobuf.message import Message
from xlmstream.v1 import inference_pb2 as pb
from xlmstream.v1.classification_pb2 import (
    ChooseMultipleRequest,
    ChooseMultipleResponse,
    ClassifySequenceRequest,
    ClassifySequenceResponse,
    ClassifyTokensRequest,
    ClassifyTokensResponse,
)
from xlmstream.v1.common_pb2 import Task
from xlmstream.v1.embedding_pb2 import EmbedRequest, EmbedResponse
from xlmstream.v1.fill_mask_pb2 import FillMaskRequest, FillMaskResponse
from xlmstream.v1.generation_pb2 import StreamEvent
from xlmstream.v1.inference_pb2_grpc import InferenceServiceServicer
from xlmstream.v1.question_answering_pb2 import AnswerQuestionRequest, AnswerQuestionResponse
from xlmstream.v1.scoring_pb2 import ScoreRequest, ScoreResponse
from xlmstream.v1.translation_pb2 import (
    TranslateRequest,
    TranslateResponse,
    TranslateStreamRequest,
    TranslateStreamResponse,
)

from xlmstream_server import errors
from xlmstream_server.call import CallMaker, Context
from xlmstream_server.catalogue import Catalogue
from xlmstream_server.config import Limits
from xlmstream_server.executions import Executions, Order
from xlmstream_server.infer.session import InferStreams
from xlmstream_server.streams import StreamCalls, Wrap
from xlmstream_server.tasks import generation, translation
from xlmstream_server.tasks.base import Piece
from xlmstream_server.tasks.table import TASKS
from xlmstream_server.unary import UnaryCalls
from xlmstream_server.validation import REQUEST_ID


class InferenceService(InferenceServiceServicer):
    """Answers inference calls."""

    def __init__(
        self,
        catalogue: Catalogue,
        executions: Executions,
        unary: UnaryCalls,
        streams: StreamCalls,
        infer: InferStreams,
        calls: CallMaker,
        limits: Limits,
    ) -> None:
        self._catalogue = catalogue
        self._executions = executions
        self._unary = unary
        self._streams = streams
        self._infer = infer
        self._calls = calls
        self._limits = limits

    def Generate(self, request: pb.GenerateRequest, context: Context) -> Awaitable[pb.GenerateResponse]:
        return self._run("generate", request, context)

    def Translate(self, request: TranslateRequest, context: Context) -> Awaitable[TranslateResponse]:
        return self._run("translate", request, context)

    def Embed(self, request: EmbedRequest, context: Context) -> Awaitable[EmbedResponse]:
        return self._run("embed", request, context)

    def FillMask(self, request: FillMaskRequest, context: Context) -> Awaitable[FillMaskResponse]:
        return self._run("fill_mask", request, context)

    def ClassifySequence(
        self, request: ClassifySequenceRequest, context: Context
    ) -> Awaitable[ClassifySequenceResponse]:
        return self._run("classify_sequence", request, context)

    def ClassifyTokens(self, request: ClassifyTokensRequest, context: Context) -> Awaitable[ClassifyTokensResponse]:
        return self._run("classify_tokens", request, context)

    def AnswerQuestion(self, request: AnswerQuestionRequest, context: Context) -> Awaitable[AnswerQuestionResponse]:
        return self._run("answer_question", request, context)

    def ChooseMultiple(self, request: ChooseMultipleRequest, context: Context) -> Awaitable[ChooseMultipleResponse]:
        return self._run("choose_multiple", request, context)

    def Score(self, request: ScoreRequest, context: Context) -> Awaitable[ScoreResponse]:
        return self._run("score", request, context)

    def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> Awaitable[pb.TokenizeResponse]:
        return self._run("tokenize", request, context)

    def Detokenize(self, request: pb.DetokenizeRequest, context: Context) -> Awaitable[pb.DetokenizeResponse]:
        return self._run("detokenize", request, context)

    async def InferStream(  # type: ignore[override]  # a coroutine that writes
        self, requests: AsyncIterator[pb.InferStreamRequest | errors.ServiceError], context: Context
    ) -> None:
        await self._infer.run(requests, context)

    async def GenerateStream(self, request: pb.GenerateStreamRequest, context: Context) -> None:  # type: ignore[override]  # a coroutine that writes
        call = self._calls.begin_work(context)
        model = self._catalogue.serving(request.options.model, Task.TASK_GENERATE)
        generation.check_stream_request(request, model, self._limits)
        order = Order(call, model, Task.TASK_GENERATE, request.options, streams=True)
        cost = generation.generation_cost(request.input, request.parameters, model)
        await self._stream(order, request, cost, _generated)

    async def TranslateStream(self, request: TranslateStreamRequest, context: Context) -> None:  # type: ignore[override]  # a coroutine that writes
        call = self._calls.begin_work(context)
        model = self._catalogue.serving(request.options.model, Task.TASK_TRANSLATE)
        translation.check_stream_request(request, model, self._limits)
        order = Order(call, model, Task.TASK_TRANSLATE, request.options, streams=True)
        cost = translation.translation_cost(request.input, request.parameters, model)
        await self._stream(order, request, cost, _translated)

    async def ResumeStream(self, request: pb.ResumeStreamRequest, context: Context) -> None:  # type: ignore[override]  # a coroutine that writes
        call = self._calls.begin_work(context)
        listener, token = await self._executions.resume(call.tenant, request.resume_token, request.next_event)
        await self._streams.relay(listener, token, call, _resumed, expires=False)

    async def _stream(self, order: Order, request: Message, cost_tokens: int, wrap: Wrap) -> None:
        """Start a checked execution and write its events."""
        piece = Piece((0,), request.SerializeToString(deterministic=True), cost_tokens)
        listener, token = await self._executions.start(order, piece)
        await self._streams.relay(listener, token, order.call, wrap, expires=True)

    async def _run(self, task: str, request: Any, context: Context) -> Any:
        return await self._unary.run(TASKS[task], request, self._calls.begin_work(context))

    async def CancelRequest(self, request: pb.CancelRequestRequest, context: Context) -> pb.CancelRequestResponse:
        call = self._calls.begin(context)
        match request.WhichOneof("target"):
            case "request_id" if REQUEST_ID.fullmatch(request.request_id):
                cancelled = await self._executions.cancel_request(call.tenant, request.request_id)
            case "request_id":
                raise errors.invalid_input([("request_id", "1 to 128 letters, digits, '.', '_', ':' and '-'")])
            case "execution_id":
                cancelled = await self._executions.cancel(call.tenant, request.execution_id)
            case _:
                raise errors.invalid_input([("target", "set exactly one of request_id and execution_id")])
        return pb.CancelRequestResponse(cancelled=cancelled)


def _generated(event: StreamEvent) -> pb.GenerateStreamResponse:
    return pb.GenerateStreamResponse(event=event)


def _translated(event: StreamEvent) -> TranslateStreamResponse:
    return TranslateStreamResponse(event=event)


def _resumed(event: StreamEvent) -> pb.ResumeStreamResponse:
    return pb.ResumeStreamResponse(event=event)
