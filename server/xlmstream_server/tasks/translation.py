"""Translate and TranslateStream: generation that reads a source; one execution for each text."""

from __future__ import annotations

from collections.abc import Sequence

from google.rpc.status_pb2 import Status
from xlmstream.status import listing, translation_problem
from xlmstream.v1.common_pb2 import RequestOptions, Task, TextInput
from xlmstream.v1.generation_pb2 import GenerationParameters
from xlmstream.v1.translation_pb2 import (
    TranslateOutput,
    TranslateParameters,
    TranslateRequest,
    TranslateResponse,
    TranslateStreamRequest,
)

from xlmstream_server.broker.assembled import assemble
from xlmstream_server.broker.v1.messages_pb2 import Event
from xlmstream_server.catalogue import ServedModel
from xlmstream_server.config import Limits
from xlmstream_server.errors import ServiceError, invalid_input
from xlmstream_server.tasks.base import Piece, UnaryTask
from xlmstream_server.tasks.generation import check_parameters
from xlmstream_server.validation import Violations, check_input_count, check_language, check_options, input_error


class TranslateTask(UnaryTask[TranslateRequest, TranslateOutput, TranslateResponse]):
    kind = Task.TASK_TRANSLATE
    request_type = TranslateRequest

    def options(self, request: TranslateRequest) -> RequestOptions:
        return request.options

    def check(self, request: TranslateRequest, model: ServedModel, limits: Limits) -> list[ServiceError | None]:
        found = Violations()
        check_options(found, request.options)
        check_input_count(found, len(request.inputs), limits)
        check_shared(found, request, model, limits)
        found.raise_if_any()
        return [
            _source_error(f"inputs[{position}]", given, request, model, limits)
            for position, given in enumerate(request.inputs)
        ]

    def split(self, request: TranslateRequest, good: Sequence[int], model: ServedModel) -> list[Piece]:
        pieces = []
        for position in good:
            given = request.inputs[position]
            single = TranslateStreamRequest(
                options=request.options,
                input=given,
                target_language=request.target_language,
                parameters=request.parameters,
            )
            cost = translation_cost(given, request.parameters, model)
            pieces.append(Piece((position,), single.SerializeToString(deterministic=True), cost))
        return pieces

    def outputs(self, piece: Piece, events: Sequence[Event]) -> Sequence[TranslateOutput]:
        return [TranslateOutput(result=assemble(events))]

    def failed(self, status: Status) -> TranslateOutput:
        return TranslateOutput(error=status)

    def response(self, outputs: Sequence[TranslateOutput], ends: Sequence[Event]) -> TranslateResponse:
        return TranslateResponse(outputs=outputs)


def check_stream_request(request: TranslateStreamRequest, model: ServedModel, limits: Limits) -> None:
    """Raises ServiceError where TranslateStream cannot accept `request`."""
    found = Violations()
    check_options(found, request.options)
    check_shared(found, request, model, limits)
    found.raise_if_any()
    if wrong := _source_error("input", request.input, request, model, limits):
        raise wrong


def translation_cost(given: TextInput, parameters: GenerationParameters, model: ServedModel) -> int:
    """Estimated tokens of source and translation together."""
    return cost_of(model.estimate_tokens(given), parameters, max(model.card.max_input_tokens, 1))


def cost_of(source_tokens: int, parameters: GenerationParameters, most: int) -> int:
    """The same, given the tokens of the source and the most that the model takes."""
    source = min(source_tokens, most)
    new = parameters.max_new_tokens if parameters.HasField("max_new_tokens") else source
    return source + min(new, most) * max(parameters.num_return_sequences, parameters.num_beams, 1)


def check_shared(
    found: Violations,
    request: TranslateRequest | TranslateStreamRequest | TranslateParameters,
    model: ServedModel,
    limits: Limits,
) -> None:
    """What holds for all texts of a call or a job."""
    if not request.target_language:
        found.add("target_language", f"must be set; supported: {listing(model.card.languages)}")
    else:
        check_language(found, "target_language", request.target_language, model.card)
    given = request.parameters
    found.check(not given.echo, "parameters.echo", "must be unset: a translation has no prompt")
    unset = not given.decoding_mode
    found.check(unset, "parameters.decoding_mode", "must be unset: a translation is decoded in one way")
    if unset:
        check_parameters(found, given, model, limits, default_new_tokens=limits.max_new_tokens)


def _source_error(
    path: str,
    given: TextInput,
    request: TranslateRequest | TranslateStreamRequest,
    model: ServedModel,
    limits: Limits,
) -> ServiceError | None:
    """What is wrong with one text, or None."""
    if wrong := input_error(path, given, request.options, model.card, limits):
        return wrong
    if not given.HasField("language"):
        known = listing(model.card.languages)
        return invalid_input([(f"{path}.language", f"must be set, to translate from; supported: {known}")])
    problem = translation_problem(model.card, given.language, request.target_language)
    return invalid_input([(f"{path}.language", problem)]) if problem else None
