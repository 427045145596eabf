"""Models that label: whole sequences, one of several choices, or every token."""

import logging

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import XLMConfig
from .head import XLMModelWithHead
from .kv_cache import KVCache
from .language_model import IGNORED_LABEL
from .outputs import MultipleChoiceModelOutput, OutputValue, SequenceClassifierOutput, TokenClassifierOutput
from .summary import SequenceSummary

logger = logging.getLogger(__name__)


class XLMForSequenceClassification(XLMModelWithHead):
    """Scores of `config.num_labels` labels for a sequence, or one value to regress (GLUE and the like)."""

    def __init__(self, config: XLMConfig) -> None:
        super().__init__(config)
        self.sequence_summary = SequenceSummary(config)
        self.initialise()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        langs: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        lengths: Tensor | None = None,
        cache: KVCache | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> SequenceClassifierOutput | tuple[OutputValue, ...]:
        """Logits (B, num_labels); arguments as for XLMModel.

        `labels` by `config.problem_type`: "single_label_classification" integers (B,), -100 to leave a row out;
        "multi_label_classification" 0 or 1 (B, num_labels); "regression" numbers (B,) or (B, num_labels). A problem
        type of None is decided by the first labels seen (one label: regression; integers: single label; else multi
        label) and *written to the configuration*.
        """
        return_dict = self.config.use_return_dict if return_dict is None else return_dict
        states = self.transformer(
            input_ids, attention_mask, langs, token_type_ids, position_ids, lengths, cache, head_mask, inputs_embeds,
            output_attentions, output_hidden_states, return_dict=True,
        )  # fmt: skip
        logits = self.sequence_summary(states.last_hidden_state)
        output = SequenceClassifierOutput(
            loss=None if labels is None else self._loss(logits, labels),
            logits=logits,
            hidden_states=states.hidden_states,
            attentions=states.attentions,
        )
        return output if return_dict else output.to_tuple()

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.config.problem_type is None:
            self.config.problem_type = self._infer_problem_type(labels)
        if self.config.problem_type == "regression":
            if self.config.num_labels == 1:
                logits, labels = logits.flatten(), labels.flatten()
            return F.mse_loss(logits, labels.to(logits.dtype))
        if self.config.problem_type == "single_label_classification":
            return F.cross_entropy(logits, labels.flatten().long(), ignore_index=IGNORED_LABEL)
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))

    def _infer_problem_type(self, labels: Tensor) -> str:
        if self.config.num_labels == 1:
            return "regression"
        if labels.dtype in (torch.int64, torch.int32):
            return "single_label_classification"
        return "multi_label_classification"


class XLMForMultipleChoice(XLMModelWithHead):
    """Which of C continuations fits a prompt best (SWAG and the like). Every choice is a sequence of its own."""

    def __init__(self, config: XLMConfig, *inputs: object, **kwargs: object) -> None:
        """`inputs` and `kwargs` are part of the documented signature and have no effect."""
        super().__init__(config)
        self.sequence_summary = SequenceSummary(config)
        self.logits_proj = nn.Linear(config.num_labels, 1)
        self.initialise()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        langs: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        lengths: Tensor | None = None,
        cache: KVCache | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> MultipleChoiceModelOutput | tuple[OutputValue, ...]:
        """Logits (B, C); arguments as for XLMModel with a dimension C after B: ids, masks, languages, token types
        and positions (B, C, T), embeds (B, C, T, E). `lengths` is ignored, with a warning: pass attention_mask.

        `labels` int64 (B,): the index of the right choice; the loss is the cross-entropy over the choices. Hidden
        states and attentions have B*C rows.
        """
        return_dict = self.config.use_return_dict if return_dict is None else return_dict
        main = input_ids if input_ids is not None else inputs_embeds
        if main is None:
            raise ValueError("one of input_ids and inputs_embeds is needed")
        if main.dim() != (3 if main is input_ids else 4):
            raise ValueError(f"input_ids must be (B, C, T) and inputs_embeds (B, C, T, E), not {tuple(main.shape)}")
        if lengths is not None:
            logger.warning("XLMForMultipleChoice ignores lengths; pass attention_mask to mark padding")
        states = self.transformer(
            *map(_merge_choices, (input_ids, attention_mask, langs, token_type_ids, position_ids)),
            cache=cache,
            head_mask=head_mask,
            inputs_embeds=_merge_choices(inputs_embeds),
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.logits_proj(self.sequence_summary(states.last_hidden_state)).view(-1, main.shape[1])
        output = MultipleChoiceModelOutput(
            loss=None if labels is None else F.cross_entropy(logits, labels),
            logits=logits,
            hidden_states=states.hidden_states,
            attentions=states.attentions,
        )
        return output if return_dict else output.to_tuple()


def _merge_choices(tensor: Tensor | None) -> Tensor | None:
    """(B, C, ...) to (B*C, ...)."""
    return None if tensor is None else tensor.flatten(0, 1)


class XLMForTokenClassification(XLMModelWithHead):
    """Scores of `config.num_labels` labels for every token (named entities, parts of speech)."""

    def __init__(self, config: XLMConfig) -> None:
        super().__init__(config)
        self.classifier = nn.Linear(config.emb_dim, config.num_labels)
        self.initialise()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        langs: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        lengths: Tensor | None = None,
        cache: KVCache | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> TokenClassifierOutput | tuple[OutputValue, ...]:
        """Logits (B, T, num_labels); arguments as for XLMModel. `labels` int64 (B, T), -100 to leave a token out:
        the loss is the mean cross-entropy of the others."""
        return_dict = self.config.use_return_dict if return_dict is None else return_dict
        states = self.transformer(
            input_ids, attention_mask, langs, token_type_ids, position_ids, lengths, cache, head_mask, inputs_embeds,
            output_attentions, output_hidden_states, return_dict=True,
        )  # fmt: skip
        x = F.dropout(states.last_hidden_state, self.config.dropout, self.training)
        logits = self.classifier(x)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED_LABEL)
        output = TokenClassifierOutput(
            loss=loss, logits=logits, hidden_states=states.hidden_states, attentions=states.attentions
        )
        return output if return_dict else output.to_tuple()
