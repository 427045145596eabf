"""What the tasks that do not generate give: frozen results, and the pure functions that read them from messages.

Fields mean what the protos of the same name say. Places are code points of the text as given: `text[start:end]`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from xlmstream.messages import Timing, Token, Usage, timing_of, usage_of
from xlmstream.tensor import Tensor, tensor_of
from xlmstream.v1 import (
    classification_pb2,
    common_pb2,
    embedding_pb2,
    fill_mask_pb2,
    question_answering_pb2,
    scoring_pb2,
)


@dataclass(frozen=True, slots=True)
class Embedding:
    """The vector of a text; with pooling "none" the vectors of its tokens."""

    tensor: Tensor
    tokens: tuple[Token, ...] = field(repr=False)
    usage: Usage
    timing: Timing


@dataclass(frozen=True, slots=True)
class MaskCandidate:
    """One token that may stand in a gap."""

    token_id: int
    piece: str
    score: float
    text: str
    """The text with this candidate in this gap."""


@dataclass(frozen=True, slots=True)
class Mask:
    """One gap; the most probable candidate first."""

    token_index: int
    start: int
    end: int
    candidates: tuple[MaskCandidate, ...]


@dataclass(frozen=True, slots=True)
class FilledMask:
    """The gaps of a text, in their order."""

    text: str
    """The text with the best candidate in every gap."""
    masks: tuple[Mask, ...]
    usage: Usage
    timing: Timing


@dataclass(frozen=True, slots=True)
class LabelScore:
    """One label."""

    label: str
    index: int
    score: float
    logit: float


@dataclass(frozen=True, slots=True)
class Classification:
    """The labels of a text, the highest score first."""

    labels: tuple[LabelScore, ...]
    usage: Usage
    timing: Timing

    @property
    def label(self) -> str:
        return self.labels[0].label

    @property
    def score(self) -> float:
        return self.labels[0].score


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a text with its label: a word, or an entity."""

    text: str
    start: int
    end: int
    label: str
    score: float


@dataclass(frozen=True, slots=True)
class TokenScores:
    """One token with the probability of each label of the model."""

    token: Token
    scores: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Tagging:
    """The labelled words of a text and the entities they form."""

    entities: tuple[Span, ...]
    words: tuple[Span, ...] = field(repr=False)
    tokens: tuple[TokenScores, ...] = field(repr=False)
    usage: Usage
    timing: Timing


@dataclass(frozen=True, slots=True)
class Answer:
    """One stretch of the context."""

    text: str
    start: int
    end: int
    score: float


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers to a question, the best first. `text` and `score` are those of the best; "" where there is none."""

    answers: tuple[Answer, ...]
    no_answer_score: float
    usage: Usage
    timing: Timing

    @property
    def text(self) -> str:
        return self.answers[0].text if self.answers else ""

    @property
    def score(self) -> float:
        return self.answers[0].score if self.answers else 0.0


@dataclass(frozen=True, slots=True)
class ChoiceScore:
    """One choice, by its place among those given."""

    index: int
    score: float
    logit: float


@dataclass(frozen=True, slots=True)
class Choice:
    """The choices, the most probable first. `index` and `score` are those of the best."""

    choices: tuple[ChoiceScore, ...]
    usage: Usage
    timing: Timing

    @property
    def index(self) -> int:
        return self.choices[0].index

    @property
    def score(self) -> float:
        return self.choices[0].score


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """One token; `log_probability` is None where the model cannot score it."""

    token: Token
    log_probability: float | None


@dataclass(frozen=True, slots=True)
class Score:
    """How probable a text is."""

    log_probability: float
    perplexity: float
    scored_tokens: int
    tokens: tuple[ScoredToken, ...] = field(repr=False)
    usage: Usage
    timing: Timing


def token_of(token: common_pb2.Token) -> Token:
    return Token(token.id, token.piece, token.start, token.end)


def embedding_of(result: embedding_pb2.EmbedResult) -> Embedding:
    tokens = tuple(map(token_of, result.tokens))
    return Embedding(tensor_of(result.embedding), tokens, usage_of(result.usage), timing_of(result.timing))


def filled_mask_of(result: fill_mask_pb2.FillMaskResult) -> FilledMask:
    masks = tuple(
        Mask(
            mask.token_index,
            mask.start,
            mask.end,
            tuple(MaskCandidate(one.token_id, one.piece, one.score, one.text) for one in mask.candidates),
        )
        for mask in result.masks
    )
    return FilledMask(result.text, masks, usage_of(result.usage), timing_of(result.timing))


def classification_of(result: classification_pb2.ClassifySequenceResult) -> Classification:
    labels = tuple(LabelScore(one.label, one.index, one.score, one.logit) for one in result.labels)
    return Classification(labels, usage_of(result.usage), timing_of(result.timing))


def tagging_of(result: classification_pb2.ClassifyTokensResult) -> Tagging:
    return Tagging(
        tuple(Span(one.text, one.start, one.end, one.label, one.score) for one in result.entities),
        tuple(Span(one.text, one.start, one.end, one.label, one.score) for one in result.words),
        tuple(TokenScores(token_of(one.token), tuple(one.scores)) for one in result.tokens),
        usage_of(result.usage),
        timing_of(result.timing),
    )


def answers_of(result: question_answering_pb2.AnswerQuestionResult) -> Answers:
    answers = tuple(Answer(one.text, one.start, one.end, one.score) for one in result.answers)
    return Answers(answers, result.no_answer_score, usage_of(result.usage), timing_of(result.timing))


def choice_of(result: classification_pb2.ChooseMultipleResult) -> Choice:
    choices = tuple(ChoiceScore(one.index, one.score, one.logit) for one in result.choices)
    return Choice(choices, usage_of(result.usage), timing_of(result.timing))


def score_of(result: scoring_pb2.ScoreResult) -> Score:
    tokens = tuple(
        ScoredToken(token_of(one.token), one.log_probability if one.HasField("log_probability") else None)
        for one in result.tokens
    )
    return Score(
        result.log_probability,
        result.perplexity,
        result.scored_tokens,
        tokens,
        usage_of(result.usage),
        timing_of(result.timing),
    )
