"""XLMWithLMHeadModel: scores over the vocabulary at every position, for masked and causal language modelling."""

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from .config import XLMConfig
from .errors import ConfigError
from .head import XLMModelWithHead
from .kv_cache import KVCache
from .layers import resized
from .outputs import MaskedLMOutput, OutputValue

IGNORED_LABEL = -100


class PredictionLayer(nn.Module):
    """Hidden states (..., E) to scores (..., V).

    `proj` is a linear layer, or with `config.asm` an adaptive softmax, whose scores are log-probabilities of the
    whole vocabulary. Source of the latter: Grave et al. 2016 (arXiv:1609.04309).
    """

    def __init__(self, config: XLMConfig) -> None:
        super().__init__()
        self.asm = config.asm
        self.proj: nn.Linear | nn.AdaptiveLogSoftmaxWithLoss
        if config.asm:
            self.proj = _adaptive_softmax(config)
        else:
            self.proj = nn.Linear(config.emb_dim, config.vocab_size)

    def forward(self, x: Tensor) -> Tensor:
        """Scores before softmax, or log-probabilities if adaptive."""
        if isinstance(self.proj, nn.AdaptiveLogSoftmaxWithLoss):
            # The module of torch takes rows of vectors only.
            return self.proj.log_prob(x.flatten(0, -2)).view(*x.shape[:-1], -1)
        return F.linear(x, self.proj.weight, self.proj.bias)

    def loss(self, x: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        """Mean negative log-likelihood of `labels` (int64, the leading shape of x); -100 is left out."""
        labels = labels.flatten()
        if isinstance(self.proj, nn.AdaptiveLogSoftmaxWithLoss):
            # From the hidden states: only the clusters that the labels fall in are computed.
            kept = labels != IGNORED_LABEL
            mean: Tensor = self.proj(x.flatten(0, -2)[kept], labels[kept]).loss
            return mean
        return F.cross_entropy(scores.flatten(0, -2), labels, ignore_index=IGNORED_LABEL)


def _adaptive_softmax(config: XLMConfig) -> nn.AdaptiveLogSoftmaxWithLoss:
    cutoffs, div_value = getattr(config, "asm_cutoffs", None), getattr(config, "asm_div_value", None)
    if not isinstance(cutoffs, (list, tuple)) or not isinstance(div_value, (int, float)):
        raise ConfigError("asm=True needs asm_cutoffs, a list of vocabulary indices, and asm_div_value, a number")
    try:
        return nn.AdaptiveLogSoftmaxWithLoss(
            config.emb_dim, config.vocab_size, list(cutoffs), div_value=div_value, head_bias=True
        )
    except ValueError as error:
        raise ConfigError(f"asm_cutoffs {list(cutoffs)} do not fit: {error}") from error


class XLMWithLMHeadModel(XLMModelWithHead):
    """The transformer with a language-model head, whose weight is the word embedding table if
    `config.tie_word_embeddings`."""

    tied_names: ClassVar[tuple[str, ...]] = ("pred_layer.proj.weight",)

    def __init__(self, config: XLMConfig) -> None:
        super().__init__(config)
        self.pred_layer = PredictionLayer(config)
        self.initialise()

    def tie_weights(self) -> None:
        """Share the embedding table with the head, if the configuration says so and the head is no adaptive one."""
        if self._is_tied() and isinstance(self.pred_layer.proj, nn.Linear):
            self.pred_layer.proj.weight = self.transformer.embeddings.weight

    def _is_tied(self) -> bool:
        return self.config.tie_word_embeddings or self.config.asm

    def resize_token_embeddings(self, vocab_size: int) -> None:
        """Keep the first rows of the word embedding table and of the head, and draw new ones as at initialisation."""
        proj = self.pred_layer.proj
        if not isinstance(proj, nn.Linear):
            raise NotImplementedError("the clusters of an adaptive softmax cannot be resized")
        self.transformer.resize_token_embeddings(vocab_size)
        proj.weight = resized(proj.weight, vocab_size, self.config.init_std)
        proj.bias = resized(proj.bias, vocab_size, 0.0)
        proj.out_features = vocab_size
        self.tie_weights()

    def get_output_embeddings(self) -> nn.Module:
        """The projection to the vocabulary."""
        return self.pred_layer.proj

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
        cache_position: Tensor | None = None,
        **ignored: object,
    ) -> MaskedLMOutput | tuple[OutputValue, ...]:
        """Logits (B, T, V); arguments as for XLMModel.

        `labels` int64 (B, T), -100 to leave a position out: the loss is the mean cross-entropy of the logits at a
        position with the label *at the same position*. Nothing is shifted, for causal models either: a caller who
        trains next-token prediction passes shifted labels.
        """
        return_dict = self.config.use_return_dict if return_dict is None else return_dict
        states = self.transformer(
            input_ids=input_ids,
            attention_mask=attention_mask,
            langs=langs,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            lengths=lengths,
            cache=cache,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            cache_position=cache_position,
        )
        x = states.last_hidden_state
        logits = self.pred_layer(x)
        output = MaskedLMOutput(
            loss=None if labels is None else self.pred_layer.loss(x, logits, labels),
            logits=logits,
            hidden_states=states.hidden_states,
            attentions=states.attentions,
        )
        return output if return_dict else output.to_tuple()
