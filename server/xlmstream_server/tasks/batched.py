"""The tasks that do not generate: inputs of one call share executions, which the worker batches with those of others.

Such a task declares its messages, says what may be asked for and what an input costs; the rest is here.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar

from google.protobuf.message import Message
from google.rpc.status_pb2 import Status
from xlmstream.v1.common_pb2 import RequestOptions, TextInput

from xlmstream_server.broker.v1.messages_pb2 import Event
from xlmstream_server.catalogue import ServedModel
from xlmstream_server.config import Limits
from xlmstream_server.errors import ServiceError
from xlmstream_server.tasks.base import Piece, UnaryTask, relocate_errors
from xlmstream_server.validation import Violations, check_input_count, check_options, input_error

# Bounds of one execution. It is retried after a crash and answered as a whole; smaller ones would let several workers
# share a call sooner, larger ones would cost the queue less.
PIECE_TOKENS = 8192
PIECE_INPUTS = 64

Input = TypeVar("Input", bound=Message)


class BatchedTask(UnaryTask[Any, Any, Any], Generic[Input]):
    """A task whose request has `options`, `inputs` and fields that hold for all inputs.

    Attributes:
        request_type, response_type, output_type: its messages, as for every task.
        terminal: the branch of Event that carries its response.
    """

    response_type: ClassVar[type[Message]]
    output_type: ClassVar[type[Message]]
    terminal: ClassVar[str]

    @abstractmethod
    def check_input(
        self, path: str, given: Input, options: RequestOptions, model: ServedModel, limits: Limits
    ) -> ServiceError | None:
        """What is wrong with one input, or None."""

    @abstractmethod
    def cost_tokens(self, given: Input, request: Any, model: ServedModel) -> int:
        """About how many tokens the worker will feed for one input."""

    def check_parameters(self, found: Violations, request: Any, model: ServedModel) -> None:
        """What is wrong with the fields that hold for all inputs."""

    def options(self, request: Any) -> RequestOptions:
        options: RequestOptions = request.options
        return options

    def check(self, request: Any, model: ServedModel, limits: Limits) -> list[ServiceError | None]:
        found = Violations()
        check_options(found, request.options)
        check_input_count(found, len(request.inputs), limits)
        self.check_parameters(found, request, model)
        found.raise_if_any()
        return [
            self.check_input(f"inputs[{position}]", given, request.options, model, limits)
            for position, given in enumerate(request.inputs)
        ]

    def split(self, request: Any, good: Sequence[int], model: ServedModel) -> list[Piece]:
        pieces: list[Piece] = []
        positions: list[int] = []
        total = 0
        for position in good:
            cost = self.cost_tokens(request.inputs[position], request, model)
            if positions and (total + cost > PIECE_TOKENS or len(positions) == PIECE_INPUTS):
                pieces.append(self._piece(request, positions, total))
                positions, total = [], 0
            positions.append(position)
            total += cost
        pieces.append(self._piece(request, positions, total))
        return pieces

    def outputs(self, piece: Piece, events: Sequence[Event]) -> Sequence[Any]:
        outputs: Sequence[Any] = getattr(events[-1], self.terminal).outputs
        relocate_errors(outputs, piece.inputs)
        return outputs

    def failed(self, status: Status) -> Any:
        return self.output_type(error=status)

    def response(self, outputs: Sequence[Any], ends: Sequence[Event]) -> Any:
        return self.response_type(outputs=outputs)

    def _piece(self, request: Any, positions: Sequence[int], cost_tokens: int) -> Piece:
        part = request
        if len(positions) < len(request.inputs):
            inputs = [request.inputs[position] for position in positions]
            shared = {field.name: value for field, value in request.ListFields() if field.name != "inputs"}
            part = self.request_type(inputs=inputs, **shared)
        return Piece(tuple(positions), part.SerializeToString(deterministic=True), cost_tokens)


class TextTask(BatchedTask[TextInput]):
    """A batched task whose inputs are texts or their token ids."""

    def check_input(
        self, path: str, given: TextInput, options: RequestOptions, model: ServedModel, limits: Limits
    ) -> ServiceError | None:
        return input_error(path, given, options, model.card, limits)

    def cost_tokens(self, given: TextInput, request: Any, model: ServedModel) -> int:
        return model.estimate_tokens(given)
