"""What the fake service answers for the tasks that do not generate: results made of the words of the input.

They are the same each time, and of the shape that the service sends: enough for code that reads results, no more.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.message import Message

from xlmstream.testing.script import Words
from xlmstream.v1 import classification_pb2 as classification
from xlmstream.v1 import inference_pb2 as inference
from xlmstream.v1.common_pb2 import TextInput, Timing, TokenIds, Usage
from xlmstream.v1.embedding_pb2 import POOLING_NONE, EmbedParameters, EmbedResult
from xlmstream.v1.fill_mask_pb2 import FillMaskCandidate, FillMaskParameters, FillMaskResult, MaskedPosition
from xlmstream.v1.question_answering_pb2 import Answer, AnswerQuestionInput, AnswerQuestionResult
from xlmstream.v1.scoring_pb2 import ScoredToken, ScoreParameters, ScoreResult
from xlmstream.v1.tensor_pb2 import DATA_TYPE_BFLOAT16, DATA_TYPE_FLOAT16, DATA_TYPE_FLOAT32, DataType, Tensor

EMBEDDING_SIZE = 8
LABELS = ("positive", "neutral", "negative")
MASK_TOKEN = "<special1>"  # noqa: S105  # a token of a vocabulary

Perform = Callable[[Words, Any, Any], Message]
"""The result of one input, given its parameters."""


def embed(words: Words, given: TextInput, parameters: EmbedParameters) -> EmbedResult:
    """A vector that depends on the text alone; with pooling "none" one for each word."""
    size = parameters.dimensions or EMBEDDING_SIZE
    dtype = parameters.dtype or DATA_TYPE_FLOAT32
    if parameters.pooling != POOLING_NONE:
        return EmbedResult(embedding=Tensor(dtype=dtype, shape=[size], data=_vector(given.text, size, dtype)))
    tokens = words.tokens(given.text)
    data = b"".join(_vector(token.piece, size, dtype) for token in tokens)
    return EmbedResult(embedding=Tensor(dtype=dtype, shape=[len(tokens), size], data=data), tokens=tokens)


def fill_mask(words: Words, given: TextInput, parameters: FillMaskParameters) -> FillMaskResult:
    """In each gap the targets, or the words "one", "two", ..., the first the most probable."""
    candidates = list(parameters.targets or ("one", "two", "three", "four", "five"))[: parameters.top_k or 5]
    result = FillMaskResult(text=given.text.replace(MASK_TOKEN, candidates[0]))
    start = given.text.find(MASK_TOKEN)
    while start >= 0:
        end = start + len(MASK_TOKEN)
        found = [
            FillMaskCandidate(
                token_id=words.id_of(word),
                piece=f"{word}</w>",
                score=0.5 / (rank + 1),
                text=given.text[:start] + word + given.text[end:],
            )
            for rank, word in enumerate(candidates)
        ]
        index = len(given.text[:start].split())
        result.masks.append(MaskedPosition(token_index=index, start=start, end=end, candidates=found))
        start = given.text.find(MASK_TOKEN, end)
    return result


def classify_sequence(
    words: Words, given: classification.ClassifySequenceInput, parameters: classification.ClassifySequenceParameters
) -> classification.ClassifySequenceResult:
    """The label named in the text, else the first, with 0.8; the others share the rest."""
    best = next((label for label in LABELS if label in given.text.text), LABELS[0])
    scores = [
        classification.LabelScore(label=label, index=index, score=0.8 if label == best else 0.1, logit=label == best)
        for index, label in enumerate(LABELS)
        if not parameters.labels or label in parameters.labels
    ]
    scores.sort(key=lambda each: -each.score)
    return classification.ClassifySequenceResult(labels=scores[: parameters.top_k or None])


def classify_tokens(
    words: Words, given: TextInput, parameters: classification.ClassifyTokensParameters
) -> classification.ClassifyTokensResult:
    """Words with a capital are entities of the label NAME."""
    result = classification.ClassifyTokensResult()
    for token in words.tokens(given.text):
        text = given.text[token.start : token.end]
        label, place = "B-NAME" if text[0].isupper() else "O", {"text": text, "start": token.start, "end": token.end}
        result.words.append(classification.LabelledWord(label=label, score=0.9, **place))  # type: ignore[arg-type]
        if label != "O":
            result.entities.append(classification.Entity(label="NAME", score=0.9, **place))  # type: ignore[arg-type]
        if parameters.include_tokens:
            result.tokens.append(classification.LabelledToken(token=token, scores=[0.9, 0.1]))
    return result


def answer_question(words: Words, given: AnswerQuestionInput, parameters: Any) -> AnswerQuestionResult:
    """The last word of the context, then those before it."""
    context = given.context.text
    last = words.tokens(context)[::-1][: parameters.top_k or 1]
    answers = [
        Answer(text=context[one.start : one.end], start=one.start, end=one.end, score=0.6 / (rank + 1))
        for rank, one in enumerate(last)
    ]
    return AnswerQuestionResult(answers=answers, no_answer_score=0.1)


def choose_multiple(
    words: Words, given: classification.ChooseMultipleInput, parameters: object
) -> classification.ChooseMultipleResult:
    """The longer a choice, the more probable."""
    lengths = [len(choice.text) + 1 for choice in given.choices]
    choices = [
        classification.ChoiceScore(index=index, score=length / sum(lengths), logit=length)
        for index, length in enumerate(lengths)
    ]
    choices.sort(key=lambda each: (-each.score, each.index))
    return classification.ChooseMultipleResult(choices=choices)


def score(words: Words, given: TextInput, parameters: ScoreParameters) -> ScoreResult:
    """Each word has log-probability -1."""
    tokens = words.tokens(given.text)
    scored = [ScoredToken(token=token, log_probability=-1.0) for token in tokens]
    return ScoreResult(
        log_probability=-len(tokens),
        perplexity=2.718281828459045,
        scored_tokens=len(tokens),
        tokens=scored if parameters.include_tokens else [],
    )


def tokenize(words: Words, given: TextInput, parameters: object) -> inference.TokenizeResult:
    return inference.TokenizeResult(tokens=words.tokens(given.text))


def detokenize(words: Words, given: TokenIds, parameters: object) -> inference.DetokenizeResult:
    return inference.DetokenizeResult(text=words.text(given.ids))


# By their branch in InferItem.
PERFORM: Mapping[str, Perform] = {
    "embed": embed,
    "fill_mask": fill_mask,
    "classify_sequence": classify_sequence,
    "classify_tokens": classify_tokens,
    "answer_question": answer_question,
    "choose_multiple": choose_multiple,
    "score": score,
    "tokenize": tokenize,
    "detokenize": detokenize,
}


def with_cost(result: Any, text: str) -> Any:
    """The same result, saying what it cost, where its kind does."""
    if "usage" in result.DESCRIPTOR.fields_by_name:
        result.usage.CopyFrom(Usage(prompt_tokens=len(text.split())))
        result.timing.CopyFrom(
            Timing(queue_us=10, tokenize_us=20, compute_us=100, total_us=130, worker_id="fake", batch_size=1)
        )
    return result


def text_of(given: Any) -> str:
    """The text by which an input is looked up among the answers: its first."""
    if isinstance(given, TextInput):
        return given.text
    for name in ("text", "question", "prompt"):
        if name in given.DESCRIPTOR.fields_by_name:
            return str(getattr(given, name).text)
    return ""


def _vector(text: str, size: int, dtype: DataType.ValueType) -> bytes:
    """Numbers from -1 to 1 that depend on `text` alone."""
    seed = hashlib.sha256(text.encode()).digest()
    numbers = [seed[index % len(seed)] / 127.5 - 1.0 for index in range(size)]
    if dtype == DATA_TYPE_FLOAT16:
        return struct.pack(f"<{size}e", *numbers)
    wide = struct.pack(f"<{size}f", *numbers)
    if dtype == DATA_TYPE_BFLOAT16:
        return b"".join(wide[at + 2 : at + 4] for at in range(0, len(wide), 4))
    return wide
