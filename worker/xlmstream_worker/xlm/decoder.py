"""XLMDecoder: writes a translation, token by token, while it reads the encoder's states of the source.

A layer is that of the encoder with a cross-attention between self-attention and feed-forward. The parameter names are
those of original translation checkpoints. Source: facebookresearch/XLM transformer.py (`is_encoder=False`); Vaswani et
al. 2017 (arXiv:1706.03762) section 3.
"""

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .body import XLMBody, zero_padding
from .config import XLMConfig
from .errors import ConfigError
from .inputs import prepare
from .kv_cache import DecoderCache, SourceStates
from .language_model import PredictionLayer
from .layers import CrossAttention, FeedForward, SelfAttention, Visibility


class DecoderBlock(NamedTuple):
    """The modules of one layer: x = norm1(x + attention(x)); x = norm15(x + cross_attention(x, source));
    x = norm2(x + ffn(x))."""

    attention: SelfAttention
    norm1: nn.LayerNorm
    cross_attention: CrossAttention
    norm15: nn.LayerNorm
    ffn: FeedForward
    norm2: nn.LayerNorm


class XLMDecoder(XLMBody):
    """The decoder of a translation model, with its projection to the vocabulary (`pred_layer`), whose weight is the
    word embedding table if `config.tie_word_embeddings`.

    Needs `is_encoder=False` and `causal=True`. Loading a causal language model with these two overrides gives a decoder
    that has its weights and a cross-attention drawn afresh.
    """

    base_prefix: ClassVar[str] = ""
    tied_names: ClassVar[tuple[str, ...]] = ("pred_layer.proj.weight",)

    def __init__(self, config: XLMConfig) -> None:
        super().__init__(config)
        if config.is_encoder or not config.causal:
            raise ConfigError("a decoder needs is_encoder=False and causal=True")
        E = config.emb_dim
        self.layer_norm15 = nn.ModuleList()
        self.encoder_attn = nn.ModuleList()
        for _ in range(config.n_layers):
            self.layer_norm15.append(nn.LayerNorm(E, eps=config.layer_norm_eps))
            self.encoder_attn.append(CrossAttention(E, config.n_heads, config.attention_dropout))
        self.pred_layer = PredictionLayer(config)
        self.initialise()

    def tie_weights(self) -> None:
        """Share the embedding table with the projection, if the configuration says so and it is no adaptive one."""
        if self.is_tied and isinstance(self.pred_layer.proj, nn.Linear):
            self.pred_layer.proj.weight = self.embeddings.weight

    @property
    def is_tied(self) -> bool:
        """Whether files hold no weight of the projection: it is the embedding table, or an adaptive softmax."""
        return self.config.tie_word_embeddings or self.config.asm

    def _is_tied(self) -> bool:
        return self.is_tied

    def blocks(self) -> list[DecoderBlock]:
        """The L layers, first to last."""
        columns = (
            self.attentions,
            self.layer_norm1,
            self.encoder_attn,
            self.layer_norm15,
            self.ffns,
            self.layer_norm2,
        )
        return [DecoderBlock(*modules) for modules in zip(*columns, strict=True)]

    def read(self, source: Tensor, lengths: Tensor | None = None) -> SourceStates:
        """What every step asks of the encoder's states (B, S, E), whose rows have `lengths` (B,) real positions
        (default: all S). ValueError if the shapes do not fit."""
        B, S, E = source.shape
        if self.config.emb_dim != E:
            raise ValueError(f"source must have width {self.config.emb_dim}, not {E}")
        if lengths is not None and tuple(lengths.shape) != (B,):
            raise ValueError(f"source_lengths must have shape {(B,)}, not {tuple(lengths.shape)}")
        pairs = [block.cross_attention.keys_values(source) for block in self.blocks()]
        opened = None if lengths is None else torch.arange(S, device=source.device) < lengths[:, None]
        return SourceStates(tuple(keys for keys, _ in pairs), tuple(values for _, values in pairs), opened)

    def forward(
        self,
        input_ids: Tensor,
        source: Tensor | SourceStates | None = None,
        source_lengths: Tensor | None = None,
        langs: Tensor | None = None,
        position_ids: Tensor | None = None,
        lengths: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: DecoderCache | None = None,
        cache_position: Tensor | None = None,
    ) -> Tensor:
        """Hidden states (B, T, E) of B beginnings of translations; `pred_layer` makes scores of the next token of them.

        Args:
            input_ids: int64 (B, T), `</s>` first.
            source: the encoder's states (B, S, E), or what `read` made of them. Left out where the cache has them.
            source_lengths: int64 (B,), with encoder states: real positions of each source; default: all.
            langs: int64 (B, T), the target language everywhere.
            position_ids, lengths, attention_mask, cache_position: as for XLMModel, about `input_ids`.
            cache: filled and extended by the call; then only the new positions come out.

        Raises ValueError, naming the argument, for inputs that do not fit together or the model.
        """
        config = self.config
        inputs = prepare(
            config,
            self.dtype,
            input_ids,
            attention_mask,
            langs,
            None,
            position_ids,
            lengths,
            cache,
            None,
            cache_position,
        )
        states = self._states(source, source_lengths, cache)
        if states.keys[0].shape[0] != input_ids.shape[0]:
            raise ValueError(f"{input_ids.shape[0]} translations of {states.keys[0].shape[0]} sources")
        opened = Visibility() if states.open is None else Visibility.only(states.open[:, None, None], self.dtype)
        x = self.embed(inputs)
        for layer, block in enumerate(self.blocks()):
            attended, _ = block.attention(x, inputs.visibility, layer, cache=cache)
            x = block.norm1(x + F.dropout(attended, config.dropout, self.training))
            read = block.cross_attention(x, states.keys[layer], states.values[layer], opened)
            x = block.norm15(x + F.dropout(read, config.dropout, self.training))
            x = block.norm2(x + block.ffn(x))
            x = zero_padding(x, inputs.token_mask)
        return x

    def _states(
        self, source: Tensor | SourceStates | None, lengths: Tensor | None, cache: DecoderCache | None
    ) -> SourceStates:
        if cache is not None and cache.source is not None:
            return cache.source
        if source is None:
            raise ValueError("source is needed: the cache holds none yet")
        states = source if isinstance(source, SourceStates) else self.read(source, lengths)
        if cache is not None:
            cache.source = states
        return states
