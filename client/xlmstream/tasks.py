"""The tasks as clients know them: what goes in, which rpc does it, what comes out. One row each, no IO."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from google.protobuf.message import Message

from xlmstream import messages, requests, results
from xlmstream.keywords import (
    AnswerKeywords,
    ChooseKeywords,
    ClassifyKeywords,
    DetokenizeKeywords,
    EmbedKeywords,
    FillMaskKeywords,
    GenerateKeywords,
    Prompt,
    RequestKeywords,
    ScoreKeywords,
    TagKeywords,
    TextKeywords,
    TokenizeKeywords,
    TranslateKeywords,
)
from xlmstream.requests import text_input
from xlmstream.v1 import classification_pb2 as classification
from xlmstream.v1 import inference_pb2 as inference
from xlmstream.v1.common_pb2 import TextInput, TokenIds
from xlmstream.v1.embedding_pb2 import EmbedParameters, EmbedRequest
from xlmstream.v1.fill_mask_pb2 import FillMaskParameters, FillMaskRequest
from xlmstream.v1.generation_pb2 import GenerationParameters
from xlmstream.v1.question_answering_pb2 import AnswerQuestionInput, AnswerQuestionParameters, AnswerQuestionRequest
from xlmstream.v1.scoring_pb2 import ScoreParameters, ScoreRequest
from xlmstream.v1.translation_pb2 import TranslateRequest


class TextPair(NamedTuple):
    """Two texts that the model sees together, for `classify`."""

    text: Prompt
    pair: Prompt


class Question(NamedTuple):
    """A question and the text to find its answer in, for `answer`."""

    question: Prompt
    context: Prompt


class Choices(NamedTuple):
    """A text and what might follow it, for `choose`."""

    prompt: Prompt
    choices: Sequence[Prompt]


@dataclass(frozen=True, slots=True)
class Task:
    """One task.

    Attributes:
        branch: its name in InferItem and InferOutput.
        rpc: its unary rpc.
        keywords: what calls may be given beside their inputs.
        input_of: an input as the message that requests carry; the last argument names it in errors.
        parameters: the message of parameters, or None.
        flags: fields of the request that hold for all inputs and are no parameters.
        result_of: what users get for a result.
    """

    branch: str
    rpc: str
    request: type[Message]
    keywords: type
    input_of: Callable[[Any, TextKeywords, str], Message]
    parameters: type[Message] | None
    result_of: Callable[[Any], Any]
    flags: tuple[str, ...] = ()

    def shared(self, keywords: Mapping[str, object]) -> dict[str, Any]:
        """The fields that hold for all inputs. Raises TypeError for a keyword that the task does not take."""
        requests.refuse_unknown(keywords, self.keywords)
        fields: dict[str, Any] = {name: keywords[name] for name in self.flags if name in keywords}
        if self.parameters is not None:
            fields["parameters"] = requests.parameters_of(self.parameters, keywords)
        return fields

    def request_of(self, inputs: Sequence[Any], keywords: Mapping[str, object]) -> Any:
        """The request of a unary call."""
        given = cast(TextKeywords, keywords)
        return self.request(
            options=requests.options_of(cast(RequestKeywords, keywords)),
            inputs=[self.input_of(one, given, f"inputs[{index}]") for index, one in enumerate(inputs)],
            **self.shared(keywords),
        )


def batch_of(given: Prompt | TextPair | Sequence[Prompt | TextPair]) -> tuple[list[Any], bool]:
    """The inputs of a call, and whether the user passed one by itself rather than a sequence."""
    return ([given], True) if isinstance(given, str | TextInput | TextPair) else (list(given), False)


def _pair(given: Prompt | TextPair, keywords: TextKeywords, path: str) -> classification.ClassifySequenceInput:
    if isinstance(given, str | TextInput):
        return classification.ClassifySequenceInput(text=text_input(given, keywords, f"{path}.text"))
    text, pair = _parts(given, 2, "a text or a TextPair", path)
    return classification.ClassifySequenceInput(
        text=text_input(text, keywords, f"{path}.text"), text_pair=text_input(pair, keywords, f"{path}.text_pair")
    )


def _question(given: Question, keywords: TextKeywords, path: str) -> AnswerQuestionInput:
    question, context = _parts(given, 2, "a Question", path)
    return AnswerQuestionInput(
        question=text_input(question, keywords, f"{path}.question"),
        context=text_input(context, keywords, f"{path}.context"),
    )


def _choices(given: Choices, keywords: TextKeywords, path: str) -> classification.ChooseMultipleInput:
    prompt, choices = _parts(given, 2, "a Choices", path)
    return classification.ChooseMultipleInput(
        prompt=text_input(prompt, keywords, f"{path}.prompt"),
        choices=[text_input(one, keywords, f"{path}.choices[{index}]") for index, one in enumerate(choices)],
    )


def _ids(given: Sequence[int], keywords: TextKeywords, path: str) -> TokenIds:
    ids = TokenIds()
    requests.assign(ids, "ids", list(given), path=f"{path}.ids")
    return ids


def _parts(given: Any, count: int, what: str, path: str) -> Sequence[Any]:
    if not isinstance(given, tuple) or len(given) != count:
        raise requests.invalid(path, f"{what}, not {type(given).__name__}")
    return given


TASKS: Mapping[str, Task] = {
    "generate": Task(
        "generate",
        "Generate",
        inference.GenerateRequest,
        GenerateKeywords,
        text_input,
        GenerationParameters,
        messages.generation_of,
    ),
    "translate": Task(
        "translate",
        "Translate",
        TranslateRequest,
        TranslateKeywords,
        requests.source_text,
        GenerationParameters,
        messages.generation_of,
        ("target_language",),
    ),
    "embed": Task("embed", "Embed", EmbedRequest, EmbedKeywords, text_input, EmbedParameters, results.embedding_of),
    "fill_mask": Task(
        "fill_mask",
        "FillMask",
        FillMaskRequest,
        FillMaskKeywords,
        text_input,
        FillMaskParameters,
        results.filled_mask_of,
    ),
    "classify": Task(
        "classify_sequence",
        "ClassifySequence",
        classification.ClassifySequenceRequest,
        ClassifyKeywords,
        _pair,
        classification.ClassifySequenceParameters,
        results.classification_of,
    ),
    "tag": Task(
        "classify_tokens",
        "ClassifyTokens",
        classification.ClassifyTokensRequest,
        TagKeywords,
        text_input,
        classification.ClassifyTokensParameters,
        results.tagging_of,
    ),
    "answer": Task(
        "answer_question",
        "AnswerQuestion",
        AnswerQuestionRequest,
        AnswerKeywords,
        _question,
        AnswerQuestionParameters,
        results.answers_of,
    ),
    "choose": Task(
        "choose_multiple",
        "ChooseMultiple",
        classification.ChooseMultipleRequest,
        ChooseKeywords,
        _choices,
        None,
        results.choice_of,
    ),
    "score": Task("score", "Score", ScoreRequest, ScoreKeywords, text_input, ScoreParameters, results.score_of),
    "tokenize": Task(
        "tokenize",
        "Tokenize",
        inference.TokenizeRequest,
        TokenizeKeywords,
        text_input,
        None,
        messages.tokens_of,
        ("add_special_tokens",),
    ),
    "detokenize": Task(
        "detokenize",
        "Detokenize",
        inference.DetokenizeRequest,
        DetokenizeKeywords,
        _ids,
        None,
        messages.text_of,
        ("skip_special_tokens",),
    ),
}


def task_named(name: str) -> Task:
    """Raises ValueError for an unknown name."""
    if name not in TASKS:
        raise ValueError(f"no task {name!r}; there are {', '.join(TASKS)}")
    return TASKS[name]
