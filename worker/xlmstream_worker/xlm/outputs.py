"""What the models return: an ordered mapping of named tensors that also reads by attribute, index and slice.

    output.logits, output["logits"], output[0], output[:2], output.to_tuple(), list(output) == ["logits", ...]

A field that was not computed is an attribute equal to None and no key of the mapping.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import overload

from torch import Tensor

OutputValue = Tensor | tuple[Tensor, ...]


@dataclass(eq=False)
class ModelOutput(Mapping[str, OutputValue]):
    """Base of the output types; see the module. Field order is the order of the tuple form."""

    def keys(self) -> list[str]:  # type: ignore[override]  # a list is a simpler view of fields that do not change
        """Names of the computed fields, in order."""
        return [field.name for field in fields(self) if getattr(self, field.name) is not None]

    def to_tuple(self) -> tuple[OutputValue, ...]:
        """The computed values, in order: what a model returns with `return_dict=False`."""
        return tuple(getattr(self, name) for name in self.keys())

    @overload
    def __getitem__(self, key: str | int) -> OutputValue: ...
    @overload
    def __getitem__(self, key: slice) -> tuple[OutputValue, ...]: ...
    def __getitem__(self, key: str | int | slice) -> OutputValue | tuple[OutputValue, ...]:
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key not in self.keys():
            raise KeyError(key)
        value: OutputValue = getattr(self, key)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())


@dataclass(eq=False)
class BaseModelOutput(ModelOutput):
    """Of XLMModel. `last_hidden_state` (B, T, E); `hidden_states` L+1 of (B, T, E), the embeddings first;
    `attentions` L of (B, H, T, K), the weights after softmax, dropout and head mask."""

    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass(eq=False)
class MaskedLMOutput(ModelOutput):
    """Of XLMWithLMHeadModel. `loss` () when labels were given; `logits` (B, T, V)."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass(eq=False)
class SequenceClassifierOutput(ModelOutput):
    """Of XLMForSequenceClassification. `loss` (); `logits` (B, num_labels)."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass(eq=False)
class MultipleChoiceModelOutput(ModelOutput):
    """Of XLMForMultipleChoice. `loss` (); `logits` (B, C). Hidden states and attentions have B*C rows."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass(eq=False)
class TokenClassifierOutput(ModelOutput):
    """Of XLMForTokenClassification. `loss` (); `logits` (B, T, num_labels)."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass(eq=False)
class QuestionAnsweringModelOutput(ModelOutput):
    """Of XLMForQuestionAnsweringSimple. `loss` (); `start_logits` and `end_logits` (B, T)."""

    loss: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass(eq=False)
class XLMForQuestionAnsweringOutput(ModelOutput):
    """Of XLMForQuestionAnswering, n = start_n_top and m = end_n_top of the configuration.

    With both positions given only `loss` () is set. Without: `start_top_log_probs` and `start_top_index` (B, n),
    best first; `end_top_log_probs` and `end_top_index` (B, m*n), where entry `end_rank * n + start_rank` belongs to
    the start of that rank; `cls_logits` (B,), the score of "no answer". The "log probs" are probabilities: the
    field names are the documented ones.
    """

    loss: Tensor | None = None
    start_top_log_probs: Tensor | None = None
    start_top_index: Tensor | None = None
    end_top_log_probs: Tensor | None = None
    end_top_index: Tensor | None = None
    cls_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass(eq=False)
class TranslationOutput(ModelOutput):
    """Of XLMEncoderDecoder. `loss` () when labels were given; `logits` (B, T, V) of the translations;
    `encoder_last_hidden_state` (B, S, E)."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    encoder_last_hidden_state: Tensor | None = None
