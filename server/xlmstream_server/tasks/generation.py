"""Generate and GenerateStream: one execution for each prompt."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from google.rpc.status_pb2 import Status
from xlmstream.v1.common_pb2 import RequestOptions, Task, TextInput
from xlmstream.v1.generation_pb2 import GenerateOutput, GenerationParameters
from xlmstream.v1.inference_pb2 import GenerateRequest, GenerateResponse, GenerateStreamRequest
from xlmstream.v1.models_pb2 import DecodingMode

from xlmstream_server.broker.assembled import assemble
from xlmstream_server.broker.v1.messages_pb2 import Event
from xlmstream_server.catalogue import ServedModel
from xlmstream_server.config import Limits
from xlmstream_server.errors import ServiceError
from xlmstream_server.tasks.base import Piece, UnaryTask
from xlmstream_server.validation import Violations, check_input_count, check_options, input_error

DEFAULT_MAX_NEW_TOKENS = 64
MAX_TEMPERATURE = 100.0
MAX_STOP_STRINGS = 16
MAX_PENALTY = 100
# Scores divided by much less are no numbers. 0.01 as a field of type float has it.
MIN_REPETITION_PENALTY = 0.009999999776482582
MAX_LENGTH_PENALTY = 10
MAX_BAD_WORDS = 64
MAX_STOP_IDS = 64
MAX_LOGIT_BIASES = 1024
MAX_TOP_LOGPROBS = 20
MAX_STOP_CHARS = 256
# No worker has more slots.
MAX_SEQUENCES = 4096


class GenerateTask(UnaryTask[GenerateRequest, GenerateOutput, GenerateResponse]):
    kind = Task.TASK_GENERATE
    request_type = GenerateRequest

    def options(self, request: GenerateRequest) -> RequestOptions:
        return request.options

    def check(self, request: GenerateRequest, model: ServedModel, limits: Limits) -> list[ServiceError | None]:
        found = Violations()
        check_options(found, request.options)
        check_input_count(found, len(request.inputs), limits)
        check_parameters(found, request.parameters, model, limits)
        found.raise_if_any()
        return [
            input_error(f"inputs[{position}]", given, request.options, model.card, limits)
            for position, given in enumerate(request.inputs)
        ]

    def split(self, request: GenerateRequest, good: Sequence[int], model: ServedModel) -> list[Piece]:
        pieces = []
        for position in good:
            given = request.inputs[position]
            single = GenerateStreamRequest(options=request.options, input=given, parameters=request.parameters)
            cost = generation_cost(given, request.parameters, model)
            pieces.append(Piece((position,), single.SerializeToString(deterministic=True), cost))
        return pieces

    def outputs(self, piece: Piece, events: Sequence[Event]) -> Sequence[GenerateOutput]:
        return [GenerateOutput(result=assemble(events))]

    def failed(self, status: Status) -> GenerateOutput:
        return GenerateOutput(error=status)

    def response(self, outputs: Sequence[GenerateOutput], ends: Sequence[Event]) -> GenerateResponse:
        return GenerateResponse(outputs=outputs)


def check_stream_request(request: GenerateStreamRequest, model: ServedModel, limits: Limits) -> None:
    """Raises ServiceError where GenerateStream cannot accept `request`."""
    found = Violations()
    check_options(found, request.options)
    check_parameters(found, request.parameters, model, limits)
    found.raise_if_any()
    if wrong := input_error("input", request.input, request.options, model.card, limits):
        raise wrong


def check_parameters(
    found: Violations,
    given: GenerationParameters,
    model: ServedModel,
    limits: Limits,
    *,
    default_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
) -> None:
    """Ranges as generation.proto documents them. Unset is always right."""
    most = given.max_new_tokens if given.HasField("max_new_tokens") else default_new_tokens
    found.within("parameters.max_new_tokens", most, 1, max(limits.max_new_tokens, DEFAULT_MAX_NEW_TOKENS))
    if given.HasField("min_new_tokens"):
        found.within("parameters.min_new_tokens", given.min_new_tokens, 0, most)
    if given.HasField("temperature"):
        found.within("parameters.temperature", given.temperature, 0, MAX_TEMPERATURE)
    if given.HasField("top_k"):
        found.within("parameters.top_k", given.top_k, 1, model.card.vocabulary_size)
    if given.HasField("top_p"):
        right = 0 < given.top_p <= 1
        found.check(right, "parameters.top_p", f"{given.top_p:g} is out of range: above 0, at most 1")
    _check_mode(found, given, model)
    _check_penalties(found, given)
    _check_candidates(found, given, model)
    found.check(
        len(given.stop) <= MAX_STOP_STRINGS,
        "parameters.stop",
        f"{len(given.stop)} stop strings; at most {MAX_STOP_STRINGS} are taken",
    )
    for position, stop in enumerate(given.stop[:MAX_STOP_STRINGS]):
        right = 1 <= len(stop) <= MAX_STOP_CHARS
        found.check(right, f"parameters.stop[{position}]", f"{len(stop)} characters; 1 to {MAX_STOP_CHARS} are taken")


def _check_mode(found: Violations, given: GenerationParameters, model: ServedModel) -> None:
    modes = [DecodingMode.DECODING_MODE_UNSPECIFIED, *model.card.decoding_modes]
    if given.decoding_mode not in modes:
        names = {number: name for name, number in DecodingMode.items()}
        wanted = names.get(given.decoding_mode, str(given.decoding_mode))
        supported = ", ".join(names.get(mode, str(mode)) for mode in modes[1:])
        found.add("parameters.decoding_mode", f"{wanted} is not supported by this model; supported: {supported}")


def _check_penalties(found: Violations, given: GenerationParameters) -> None:
    if given.HasField("min_p"):
        found.within("parameters.min_p", given.min_p, 0, 1)
    typical = not given.HasField("typical_p") or 0 < given.typical_p <= 1
    found.check(typical, "parameters.typical_p", f"{given.typical_p:g} is out of range: above 0, at most 1")
    if given.HasField("repetition_penalty"):
        least = MIN_REPETITION_PENALTY
        found.within("parameters.repetition_penalty", given.repetition_penalty, least, MAX_PENALTY)
    found.within("parameters.presence_penalty", given.presence_penalty, -MAX_PENALTY, MAX_PENALTY)
    found.within("parameters.frequency_penalty", given.frequency_penalty, -MAX_PENALTY, MAX_PENALTY)
    words = len(given.bad_words)
    found.check(words <= MAX_BAD_WORDS, "parameters.bad_words", f"{words} words; at most {MAX_BAD_WORDS} are taken")
    for position, word in enumerate(given.bad_words[:MAX_BAD_WORDS]):
        path = f"parameters.bad_words[{position}]"
        found.check(1 <= len(word) <= MAX_STOP_CHARS, path, f"{len(word)} characters; 1 to {MAX_STOP_CHARS} are taken")


def _check_candidates(found: Violations, given: GenerationParameters, model: ServedModel) -> None:
    """Ids, and how many candidates and beams; the worker knows for how many of them it has slots."""
    size = model.card.vocabulary_size
    for name, ids, most in (
        ("stop_token_ids", given.stop_token_ids, MAX_STOP_IDS),
        ("logit_bias", given.logit_bias, MAX_LOGIT_BIASES),
    ):
        found.check(len(ids) <= most, f"parameters.{name}", f"{len(ids)} ids; at most {most} are taken")
        wrong = [token for token in ids if token >= size]
        found.check(not wrong, f"parameters.{name}", f"{wrong[:1]}: ids must be below {size}")
    for token, bias in islice(given.logit_bias.items(), MAX_LOGIT_BIASES):
        found.within(f"parameters.logit_bias[{token}]", bias, -MAX_PENALTY, MAX_PENALTY)
    count = given.num_return_sequences if given.HasField("num_return_sequences") else 1
    found.within("parameters.num_return_sequences", count, 1, MAX_SEQUENCES)
    if given.HasField("top_logprobs"):
        found.within("parameters.top_logprobs", given.top_logprobs, 0, MAX_TOP_LOGPROBS)
    if given.HasField("num_beams"):
        found.within("parameters.num_beams", given.num_beams, count, MAX_SEQUENCES)
        found.check(given.temperature == 0, "parameters.temperature", "must be 0 with num_beams")
        found.check(not given.HasField("top_logprobs"), "parameters.top_logprobs", "must be unset with num_beams")
    if given.HasField("length_penalty"):
        found.within("parameters.length_penalty", given.length_penalty, -MAX_LENGTH_PENALTY, MAX_LENGTH_PENALTY)


def generation_cost(given: TextInput, parameters: GenerationParameters, model: ServedModel) -> int:
    """Estimated tokens of prompt and output together."""
    new, texts = output_cost(parameters)
    return min(model.estimate_tokens(given) + new, max(model.card.max_input_tokens, 1)) * texts


def output_cost(parameters: GenerationParameters) -> tuple[int, int]:
    """Most new tokens of one text, and how many texts are written at once."""
    new = parameters.max_new_tokens if parameters.HasField("max_new_tokens") else DEFAULT_MAX_NEW_TOKENS
    return new, max(parameters.num_return_sequences, parameters.num_beams, 1)
