"""InferenceService: typed tasks, streams, cancellation."""

from __future__ import annotations

from xlmstream.v1 import inference_pb2 as pb
from xlmstream.v1.common_pb2 import Task
from xlmstream.v1.generation_pb2 import StreamEvent
from xlmstream.v1.inference_pb2_grpc import InferenceServiceServicer

from xlmstream_server import errors
from xlmstream_server.call import CallMaker, Context
from xlmstream_server.catalogue import Catalogue
from xlmstream_server.config import Limits
from xlmstream_server.executions import Executions, Order
from xlmstream_server.streams import StreamCalls
from xlmstream_server.tasks.base import Piece
from xlmstream_server.tasks.generation import GenerateTask, check_stream_request, generation_cost
from xlmstream_server.tasks.tokenization import DetokenizeTask, TokenizeTask
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
        calls: CallMaker,
        limits: Limits,
    ) -> None:
        self._catalogue = catalogue
        self._executions = executions
        self._unary = unary
        self._streams = streams
        self._calls = calls
        self._limits = limits
        self._generate = GenerateTask()
        self._tokenize = TokenizeTask()
        self._detokenize = DetokenizeTask()

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:
        return await self._unary.run(self._generate, request, self._calls.begin_work(context))

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:
        return await self._unary.run(self._tokenize, request, self._calls.begin_work(context))

    async def Detokenize(self, request: pb.DetokenizeRequest, context: Context) -> pb.DetokenizeResponse:
        return await self._unary.run(self._detokenize, request, self._calls.begin_work(context))

    async def GenerateStream(self, request: pb.GenerateStreamRequest, context: Context) -> None:  # type: ignore[override]  # a coroutine that writes
        call = self._calls.begin_work(context)
        model = self._catalogue.serving(request.options.model, Task.TASK_GENERATE)
        check_stream_request(request, model, self._limits)
        order = Order(call, model, Task.TASK_GENERATE, request.options, streams=True)
        cost = generation_cost(request.input, request.parameters, model)
        piece = Piece((0,), request.SerializeToString(deterministic=True), cost)
        listener, token = await self._executions.start(order, piece)
        await self._streams.relay(listener, token, call, _generated, expires=True)

    async def ResumeStream(self, request: pb.ResumeStreamRequest, context: Context) -> None:  # type: ignore[override]  # a coroutine that writes
        call = self._calls.begin_work(context)
        listener, token = await self._executions.resume(call.tenant, request.resume_token, request.next_event)
        await self._streams.relay(listener, token, call, _resumed, expires=False)

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


def _resumed(event: StreamEvent) -> pb.ResumeStreamResponse:
    return pb.ResumeStreamResponse(event=event)
