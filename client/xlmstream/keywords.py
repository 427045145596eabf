"""The keywords that calls take, as types: what a user may write, and what it means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Required, TypedDict

from xlmstream.v1.common_pb2 import TextInput

Prompt = str | TextInput
"""A text; or a TextInput for what a plain string cannot say: token ids, or a language of its own within a batch."""


class RequestKeywords(TypedDict, total=False):
    """What every request takes."""

    model: str
    """ "name" or "name@version"; left out: the only model served."""
    priority: Literal["interactive", "standard", "bulk"]
    request_id: str
    """Your key for this request: a second one with the same key and content joins the first."""


class TextKeywords(RequestKeywords, total=False):
    """What every request on texts takes."""

    language: str
    """Language code of the prompts that name none, one of Model.languages."""
    allow_special_tokens: bool
    """Whether "</s>" and the like in a plain string mean the special tokens; otherwise they are literal text."""
    truncation: Literal["keep_start", "keep_end"]
    """What to keep of an input that is too long; left out, it is refused with InputTooLong."""


class TokenizeKeywords(TextKeywords, total=False):
    """What tokenisation takes."""

    add_special_tokens: bool
    """Whether to add the special tokens around each text."""


class DetokenizeKeywords(RequestKeywords, total=False):
    """What detokenisation takes."""

    skip_special_tokens: bool
    """Whether to leave special tokens out of the text."""


class WritingKeywords(TypedDict, total=False):
    """How a text is written; GenerationParameters in generation.proto gives ranges and defaults."""

    max_new_tokens: int
    min_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    seed: int
    stop: str | Sequence[str]
    ignore_eos: bool
    min_p: float
    typical_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    no_repeat_ngram_size: int
    bad_words: Sequence[str]
    logit_bias: Mapping[int, float]
    stop_token_ids: Sequence[int]
    num_return_sequences: int
    num_beams: int
    length_penalty: float
    early_stopping: Literal["heuristic", "when_full", "never"]
    top_logprobs: int


class GenerateKeywords(TextKeywords, WritingKeywords, total=False):
    """What generation takes."""

    echo: bool
    decoding_mode: Literal["next_token", "mask_append"]
    """Left out: the first of Model.decoding_modes."""


class TranslateKeywords(RequestKeywords, WritingKeywords, total=False):
    """What translation takes; translation.proto tells what differs from generation."""

    source_language: str
    """Language code of the texts that name none, one of Model.languages. Each text needs one."""
    target_language: Required[str]
    """Code of the language to translate into."""
    allow_special_tokens: bool
    """As in TextKeywords."""
    truncation: Literal["keep_start", "keep_end"]
    """As in TextKeywords."""


class EmbedKeywords(TextKeywords, total=False):
    """What embedding takes; EmbedParameters in embedding.proto gives ranges and defaults."""

    pooling: Literal["first", "mean", "max", "last", "none"]
    layer: int
    normalize: bool
    dimensions: int
    dtype: Literal["float32", "float16", "bfloat16"]


class FillMaskKeywords(TextKeywords, total=False):
    """What filling gaps takes; FillMaskParameters in fill_mask.proto gives ranges and defaults."""

    top_k: int
    targets: Sequence[str]


class ClassifyKeywords(TextKeywords, total=False):
    """What classifying texts takes; ClassifySequenceParameters in classification.proto gives ranges and defaults."""

    function: Literal["softmax", "sigmoid", "none"]
    top_k: int
    labels: Sequence[str]


class TagKeywords(TextKeywords, total=False):
    """What classifying words takes; ClassifyTokensParameters in classification.proto gives ranges and defaults."""

    aggregation: Literal["simple", "first", "average", "max"]
    ignore_labels: Sequence[str]
    include_tokens: bool


class AnswerKeywords(TextKeywords, total=False):
    """What answering takes; AnswerQuestionParameters in question_answering.proto gives ranges and defaults."""

    top_k: int
    max_answer_tokens: int
    max_question_tokens: int
    window_tokens: int
    stride_tokens: int
    allow_no_answer: bool


class ChooseKeywords(TextKeywords, total=False):
    """What choosing takes."""


class ScoreKeywords(TextKeywords, total=False):
    """What scoring takes; ScoreParameters in scoring.proto gives defaults."""

    score_end: bool
    include_tokens: bool
