"""Models that find an answer in a text: a simple span classifier, and a beam search over start and end.

Source of the latter: the SQuAD head of XLNet (Yang et al. 2019, arXiv:1906.08237), as facebookresearch/XLM's users
know it from the documented classes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import XLMConfig
from .errors import ConfigError
from .head import XLMModelWithHead
from .kv_cache import KVCache
from .outputs import OutputValue, QuestionAnsweringModelOutput, XLMForQuestionAnsweringOutput


class XLMForQuestionAnsweringSimple(XLMModelWithHead):
    """Start and end scores for every token, independent of each other."""

    def __init__(self, config: XLMConfig) -> None:
        super().__init__(config)
        if config.num_labels != 2:
            raise ConfigError(f"a span has a start and an end: num_labels must be 2, not {config.num_labels}")
        self.qa_outputs = nn.Linear(config.emb_dim, config.num_labels)
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
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> QuestionAnsweringModelOutput | tuple[OutputValue, ...]:
        """Start and end logits (B, T) each; arguments as for XLMModel.

        `start_positions` and `end_positions` int64 (B,), both for a loss: the mean of the two cross-entropies.
        Positions from T on are left out; negative ones count as 0.
        """
        return_dict = self.config.use_return_dict if return_dict is None else return_dict
        states = self.transformer(
            input_ids, attention_mask, langs, token_type_ids, position_ids, lengths, cache, head_mask, inputs_embeds,
            output_attentions, output_hidden_states, return_dict=True,
        )  # fmt: skip
        start_logits, end_logits = self.qa_outputs(states.last_hidden_state).unbind(-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            losses = [
                F.cross_entropy(logits, _column(positions).clamp(0, logits.shape[1]), ignore_index=logits.shape[1])
                for logits, positions in ((start_logits, start_positions), (end_logits, end_positions))
            ]
            loss = (losses[0] + losses[1]) / 2
        output = QuestionAnsweringModelOutput(
            loss=loss,
            start_logits=start_logits,
            end_logits=end_logits,
            hidden_states=states.hidden_states,
            attentions=states.attentions,
        )
        return output if return_dict else output.to_tuple()


class StartScores(nn.Module):
    """(B, T) scores of an answer starting at each position."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, 1)

    def forward(self, states: Tensor, p_mask: Tensor | None = None) -> Tensor:
        return _forbid(self.dense(states).squeeze(-1), p_mask)


class EndScores(nn.Module):
    """Scores of an answer ending at each position, given the hidden states of N candidate starts."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.dense_0 = nn.Linear(2 * dim, dim)
        self.LayerNorm = nn.LayerNorm(dim, eps=eps)
        self.dense_1 = nn.Linear(dim, 1)

    def forward(self, states: Tensor, starts: Tensor, p_mask: Tensor | None = None) -> Tensor:
        """`states` (B, T, E), `starts` (B, N, E): scores (B, T, N)."""
        # The layer sees [state, start]; applied in halves, no (B, T, N, 2E) tensor has to be built.
        for_state, for_start = self.dense_0.weight.chunk(2, dim=1)
        inner = F.linear(states, for_state, self.dense_0.bias)[:, :, None] + F.linear(starts, for_start)[:, None]
        scores = self.dense_1(self.LayerNorm(inner.tanh())).squeeze(-1)
        return _forbid(scores, None if p_mask is None else p_mask.unsqueeze(-1))


class AnswerClass(nn.Module):
    """(B,) scores of the question having no answer, from the start vector and the classification token's."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dense_0 = nn.Linear(2 * dim, dim)
        self.dense_1 = nn.Linear(dim, 1, bias=False)

    def forward(self, start: Tensor, cls: Tensor) -> Tensor:
        scores: Tensor = self.dense_1(self.dense_0(torch.cat([start, cls], dim=-1)).tanh())
        return scores.squeeze(-1)


class SpanSearch(nn.Module):
    """The heads of XLMForQuestionAnswering: loss of a known answer, or the best starts and ends."""

    def __init__(self, config: XLMConfig) -> None:
        super().__init__()
        self.start_n_top = config.start_n_top
        self.end_n_top = config.end_n_top
        self.start_logits = StartScores(config.emb_dim)
        self.end_logits = EndScores(config.emb_dim, config.layer_norm_eps)
        self.answer_class = AnswerClass(config.emb_dim)

    def loss(
        self,
        states: Tensor,
        start_positions: Tensor,
        end_positions: Tensor,
        cls_index: Tensor | None = None,
        is_impossible: Tensor | None = None,
        p_mask: Tensor | None = None,
    ) -> Tensor:
        """Training: the end is scored given the true start."""
        starts = _at(states, start_positions)
        start_scores = self.start_logits(states, p_mask)
        end_scores = self.end_logits(states, starts[:, None], p_mask).squeeze(-1)
        loss = (F.cross_entropy(start_scores, start_positions) + F.cross_entropy(end_scores, end_positions)) / 2
        if cls_index is not None and is_impossible is not None:
            scores = self.answer_class(starts, _at(states, cls_index))
            loss = loss + 0.5 * F.binary_cross_entropy_with_logits(scores, is_impossible.to(scores.dtype))
        return loss

    def forward(
        self,
        states: Tensor,
        cls_index: Tensor | None = None,
        p_mask: Tensor | None = None,
        most: int | None = None,
    ) -> XLMForQuestionAnsweringOutput:
        """Inference: the `start_n_top` most probable starts, and for each the `end_n_top` most probable ends; at most
        `most` of either, for inputs with fewer places."""
        T = states.shape[1]
        n_starts, n_ends = (top if most is None else min(top, most) for top in (self.start_n_top, self.end_n_top))
        if max(n_starts, n_ends) > T:
            raise ValueError(f"start_n_top {n_starts} and end_n_top {n_ends} need as many positions, not {T}")
        start_probs = self.start_logits(states, p_mask).softmax(-1)
        start_top, start_index = start_probs.topk(n_starts, dim=-1)
        starts = states.gather(1, start_index[:, :, None].expand(-1, -1, states.shape[2]))
        end_probs = self.end_logits(states, starts, p_mask).softmax(dim=1)
        end_top, end_index = end_probs.topk(n_ends, dim=1)
        expected_start = (start_probs.unsqueeze(1) @ states).squeeze(1)
        cls = states[:, -1] if cls_index is None else _at(states, cls_index)
        return XLMForQuestionAnsweringOutput(
            start_top_log_probs=start_top,
            start_top_index=start_index,
            end_top_log_probs=end_top.flatten(1),
            end_top_index=end_index.flatten(1),
            cls_logits=self.answer_class(expected_start, cls),
        )


class XLMForQuestionAnswering(XLMModelWithHead):
    """Beam search over spans, with a score for "no answer" (SQuAD 2.0)."""

    def __init__(self, config: XLMConfig) -> None:
        super().__init__(config)
        self.qa_outputs = SpanSearch(config)
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
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        is_impossible: Tensor | None = None,
        cls_index: Tensor | None = None,
        p_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> XLMForQuestionAnsweringOutput | tuple[OutputValue, ...]:
        """The best spans, or with both positions the loss alone; arguments as for XLMModel.

        Args:
            start_positions, end_positions: int64 (B,) in [0, T). Neither is clamped, and none can be left out.
            is_impossible: 0 or 1 (B,), whether there is no answer; counted in the loss if cls_index is given too.
            cls_index: int64 (B,), where the classification token is; default the last position, padding or not.
            p_mask: (B, T), 1 for tokens that cannot be in an answer (special tokens, the question, padding).
        """
        return_dict = self.config.use_return_dict if return_dict is None else return_dict
        states = self.transformer(
            input_ids, attention_mask, langs, token_type_ids, position_ids, lengths, cache, head_mask, inputs_embeds,
            output_attentions, output_hidden_states, return_dict=True,
        )  # fmt: skip
        x = states.last_hidden_state
        cls_index = None if cls_index is None else _column(cls_index)
        if start_positions is not None and end_positions is not None:
            impossible = None if is_impossible is None else _column(is_impossible)
            starts, ends = _column(start_positions), _column(end_positions)
            output = XLMForQuestionAnsweringOutput(
                loss=self.qa_outputs.loss(x, starts, ends, cls_index, impossible, p_mask)
            )
        else:
            output = self.qa_outputs(x, cls_index, p_mask)
        output.hidden_states = states.hidden_states
        output.attentions = states.attentions
        return output if return_dict else output.to_tuple()


def _column(tensor: Tensor) -> Tensor:
    """(B, 1), as data loaders give positions, to (B,)."""
    return tensor.squeeze(-1) if tensor.dim() > 1 else tensor


def _at(states: Tensor, positions: Tensor) -> Tensor:
    """(B, E): the hidden state of each row at its position."""
    return states[torch.arange(states.shape[0], device=states.device), positions]


def _forbid(scores: Tensor, p_mask: Tensor | None) -> Tensor:
    """Push the scores of forbidden positions so low that their probability is zero."""
    if p_mask is None:
        return scores
    lowest = 65500.0 if torch.float16 in (scores.dtype, p_mask.dtype) else 1e30
    p_mask = p_mask.to(scores.dtype)
    return scores * (1 - p_mask) - lowest * p_mask
