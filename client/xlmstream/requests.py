"""From Python arguments to request messages: pure functions that read the keywords of calls."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, MutableMapping, MutableSequence, Sequence
from typing import Any, TypeVar, cast

from google.protobuf.message import Message

from xlmstream.errors import FieldViolation, InvalidInput
from xlmstream.keywords import (
    DetokenizeKeywords,
    GenerateKeywords,
    Prompt,
    RequestKeywords,
    TextKeywords,
    TokenizeKeywords,
    TranslateKeywords,
)
from xlmstream.v1.common_pb2 import DisconnectPolicy, Priority, RequestOptions, TextInput, Truncation
from xlmstream.v1.generation_pb2 import GenerationParameters
from xlmstream.v1.inference_pb2 import (
    CancelRequestRequest,
    DetokenizeRequest,
    GenerateRequest,
    GenerateStreamRequest,
    TokenizeRequest,
)
from xlmstream.v1.translation_pb2 import TranslateRequest, TranslateStreamRequest


def new_request_id() -> str:
    return uuid.uuid4().hex


def batch_of(prompts: Prompt | Sequence[Prompt]) -> tuple[list[Prompt], bool]:
    """The inputs of a call, and whether the user passed one by itself rather than a sequence."""
    return ([prompts], True) if isinstance(prompts, str | TextInput) else (list(prompts), False)


def id_batch_of(ids: Sequence[int] | Sequence[Sequence[int]]) -> tuple[list[Sequence[int]], bool]:
    """The same for lists of ids; an empty sequence is one list without ids."""
    lists = [one for one in ids if not isinstance(one, int)]
    return (lists, False) if lists else ([[one for one in ids if isinstance(one, int)]], True)


def generate_request(prompts: Sequence[Prompt], keywords: GenerateKeywords) -> GenerateRequest:
    refuse_unknown(keywords, GenerateKeywords)
    return GenerateRequest(
        options=options_of(keywords, request_id=new_request_id()),
        inputs=_inputs(prompts, keywords),
        parameters=_parameters(keywords),
    )


def generate_stream_request(prompt: Prompt, keywords: GenerateKeywords) -> GenerateStreamRequest:
    """A request that goes on without a listener for a while, so that the client can take its stream up again."""
    refuse_unknown(keywords, GenerateKeywords)
    options = options_of(keywords, request_id=new_request_id())
    options.disconnect_policy = DisconnectPolicy.DISCONNECT_POLICY_DETACH
    [text] = _inputs([prompt], keywords)
    return GenerateStreamRequest(options=options, input=text, parameters=_parameters(keywords))


def translate_request(texts: Sequence[Prompt], keywords: TranslateKeywords) -> TranslateRequest:
    refuse_unknown(keywords, TranslateKeywords)
    return TranslateRequest(
        options=options_of(keywords, request_id=new_request_id()),
        inputs=[source_text(text, keywords, f"inputs[{index}]") for index, text in enumerate(texts)],
        target_language=_target_language(keywords),
        parameters=parameters_of(GenerationParameters, keywords),
    )


def translate_stream_request(text: Prompt, keywords: TranslateKeywords) -> TranslateStreamRequest:
    """As `generate_stream_request`."""
    refuse_unknown(keywords, TranslateKeywords)
    options = options_of(keywords, request_id=new_request_id())
    options.disconnect_policy = DisconnectPolicy.DISCONNECT_POLICY_DETACH
    return TranslateStreamRequest(
        options=options,
        input=source_text(text, keywords, "input"),
        target_language=_target_language(keywords),
        parameters=parameters_of(GenerationParameters, keywords),
    )


def source_text(text: Prompt, keywords: Mapping[str, object], path: str) -> TextInput:
    """A text to be translated as a message; its language goes by another name than elsewhere."""
    given = {"language": keywords.get("source_language"), **keywords}
    return text_input(text, cast(TextKeywords, given), path)


def _target_language(keywords: TranslateKeywords) -> str:
    language = keywords.get("target_language")
    if not isinstance(language, str):
        raise invalid("target_language", f"a language code, not {type(language).__name__}")
    return language


def tokenize_request(texts: Sequence[Prompt], keywords: TokenizeKeywords) -> TokenizeRequest:
    refuse_unknown(keywords, TokenizeKeywords)
    return TokenizeRequest(
        options=options_of(keywords),
        inputs=_inputs(texts, keywords),
        add_special_tokens=keywords.get("add_special_tokens", False),
    )


def detokenize_request(inputs: Sequence[Iterable[int]], keywords: DetokenizeKeywords) -> DetokenizeRequest:
    refuse_unknown(keywords, DetokenizeKeywords)
    request = DetokenizeRequest(
        options=options_of(keywords), skip_special_tokens=keywords.get("skip_special_tokens", False)
    )
    for index, ids in enumerate(inputs):
        assign(request.inputs.add(), "ids", list(ids), path=f"inputs[{index}].ids")
    return request


def cancel_request(request_id: str | None, execution_id: str | None) -> CancelRequestRequest:
    if request_id is not None and execution_id is None:
        return CancelRequestRequest(request_id=request_id)
    if execution_id is not None and request_id is None:
        return CancelRequestRequest(execution_id=execution_id)
    raise TypeError("name the request by its request_id or by its execution_id")


def options_of(keywords: RequestKeywords | TextKeywords | TranslateKeywords, *, request_id: str = "") -> RequestOptions:
    """The options of a request; `request_id` is for one whose user chose none."""
    options = RequestOptions(request_id=request_id)
    for name in ("model", "request_id"):
        assign(options, name, keywords.get(name), path=f"options.{name}")
    for name, values in (("priority", Priority), ("truncation", Truncation)):
        chosen = keywords.get(name)
        if chosen is not None:
            names = {full.removeprefix(f"{name.upper()}_").lower(): value for full, value in values.items()}
            if chosen not in names:
                raise invalid(f"options.{name}", f"{chosen!r} is none of {', '.join(sorted(names))}")
            setattr(options, name, names[str(chosen)])
    return options


def _inputs(prompts: Sequence[Prompt], keywords: TextKeywords) -> list[TextInput]:
    return [text_input(prompt, keywords, f"inputs[{index}]") for index, prompt in enumerate(prompts)]


def text_input(prompt: Prompt, keywords: TextKeywords, path: str) -> TextInput:
    """One text as a message; `path` names it in errors."""
    text = TextInput()
    if isinstance(prompt, TextInput):
        text.CopyFrom(prompt)
    elif not isinstance(prompt, str):
        raise invalid(path, f"a str or a TextInput, not {type(prompt).__name__}")
    else:
        assign(text, "text", prompt, path=f"{path}.text")
        text.allow_special_tokens = keywords.get("allow_special_tokens", False)
    if not text.HasField("language"):
        assign(text, "language", keywords.get("language"), path=f"{path}.language")
    return text


def _parameters(keywords: GenerateKeywords) -> GenerationParameters:
    return parameters_of(GenerationParameters, keywords)


Parameters = TypeVar("Parameters", bound=Message)


def parameters_of(kind: type[Parameters], keywords: Mapping[str, object]) -> Parameters:
    """A message of parameters from the keywords that are named as its fields; enum values go by their short names."""
    parameters = kind()
    for field in parameters.DESCRIPTOR.fields:
        value, path = keywords.get(field.name), f"parameters.{field.name}"
        if value is not None and field.enum_type is not None:
            values = field.enum_type.values
            prefix = values[0].name.removesuffix("UNSPECIFIED")
            names = {one.name.removeprefix(prefix).lower(): one.number for one in values[1:]}
            if value not in names:
                raise invalid(path, f"{value!r} is none of {', '.join(names)}")
            value = names[str(value)]
        assign(parameters, field.name, [value] if field.name == "stop" and isinstance(value, str) else value, path=path)
    return parameters


def assign(message: Message, name: str, value: Any, *, path: str) -> None:
    """Set one field; None leaves it unset. What the field's type cannot hold is told with the name users know."""
    if value is None:
        return
    field = getattr(message, name)
    try:
        if isinstance(field, MutableSequence):
            field.extend(value)
        elif isinstance(field, MutableMapping):
            field.update(value)
        else:
            setattr(message, name, value)
    except (TypeError, ValueError) as error:
        raise invalid(path, str(error)) from error


def invalid(path: str, description: str) -> InvalidInput:
    return InvalidInput(
        f"{path}: {description}", reason="INVALID_INPUT", field_violations=[FieldViolation(path, description)]
    )


def refuse_unknown(keywords: Mapping[str, object], known: type) -> None:
    """A misspelt keyword is an error as in any function, not a default silently kept."""
    for name in keywords:
        if name not in known.__annotations__:
            raise TypeError(f"unexpected keyword argument {name!r}; known are {', '.join(known.__annotations__)}")
