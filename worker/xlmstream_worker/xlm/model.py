"""XLMModel: token, position and language embeddings, then L post-norm transformer layers.

Source: Lample & Conneau 2019 (arXiv:1901.07291); facebookresearch/XLM transformer.py. Data flow of one call:
`inputs.prepare` (shapes, lengths, masks, cache trimming) -> `embed` -> layers -> BaseModelOutput.
"""

from collections.abc import Iterable, Mapping
from typing import ClassVar, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from .config import XLMConfig
from .config_checks import check_config
from .errors import ConfigError
from .inputs import ModelInputs, layer_head_masks, prepare
from .kv_cache import KVCache
from .layers import FeedForward, SelfAttention, SinusoidalEmbedding, resized
from .outputs import BaseModelOutput, OutputValue
from .pretrained import PreTrainedXLM


class Block(NamedTuple):
    """The modules of one layer: x = norm1(x + attention(x)); x = norm2(x + ffn(x))."""

    attention: SelfAttention
    norm1: nn.LayerNorm
    ffn: FeedForward
    norm2: nn.LayerNorm


class XLMModel(PreTrainedXLM):
    """The transformer without a head: ids to hidden states."""

    base_prefix: ClassVar[str] = ""

    def __init__(self, config: XLMConfig) -> None:
        super().__init__(config)
        check_config(config)
        if not config.is_encoder:
            raise ConfigError("is_encoder=False is a translation decoder, which this library does not have yet")
        E, eps = config.emb_dim, config.layer_norm_eps
        positions = SinusoidalEmbedding if config.sinusoidal_embeddings else nn.Embedding
        self.position_embeddings = positions(config.max_position_embeddings, E)
        if config.n_langs > 1 and config.use_lang_emb:
            self.lang_embeddings: nn.Embedding | None = nn.Embedding(config.n_langs, E)
        else:
            self.lang_embeddings = None
        self.embeddings = nn.Embedding(config.vocab_size, E, padding_idx=config.pad_index)
        self.layer_norm_emb = nn.LayerNorm(E, eps=eps)
        self.attentions = nn.ModuleList()
        self.layer_norm1 = nn.ModuleList()
        self.ffns = nn.ModuleList()
        self.layer_norm2 = nn.ModuleList()
        for layer in range(config.n_layers):
            pruned = config.pruned_heads.get(layer, ())
            self.attentions.append(SelfAttention(E, config.n_heads, config.attention_dropout, pruned))
            self.layer_norm1.append(nn.LayerNorm(E, eps=eps))
            self.ffns.append(FeedForward(E, config.gelu_activation, config.dropout, config.chunk_size_feed_forward))
            self.layer_norm2.append(nn.LayerNorm(E, eps=eps))
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
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache_position: Tensor | None = None,
        **ignored: object,
    ) -> BaseModelOutput | tuple[OutputValue, ...]:
        """Hidden states of B rows of T tokens.

        Args:
            input_ids: int64 (B, T). Or `inputs_embeds` (B, T, E); given both, the ids tell lengths and the embeds
                give the vectors.
            attention_mask: (B, T), 0 for padding. Non-causal models do not attend to padding; causal models mask
                only the future. All models zero the output of padding.
            langs: int64 (B, T) in [0, n_langs). Ignored by models without language embeddings.
            token_type_ids: int64 (B, T), looked up in the *word* embeddings: type 0 adds the vector of <s>.
                XLM was pre-trained without them.
            position_ids: int64 (B, T) in [0, max_position_embeddings), default 0, 1, 2, ...
            lengths: int64 (B,) in [0, T], used when there is no attention_mask; default: how many ids in the row
                are not `pad_index`.
            cache: a KVCache, causal models only; see there for full and incremental calls.
            head_mask: (H,) or (L, H), 1 keeps a head, 0 drops it.
            output_attentions, output_hidden_states, return_dict: default to the configuration.
            cache_position: int64 (T,), the positions of the given ids when they are new ones only.
            ignored: other keywords are accepted and ignored, as documented for this class.

        Returns BaseModelOutput, or with `return_dict=False` the tuple of its values. With a cache they cover the
        new positions only. Rows that are all padding come out as zeros.

        Raises ValueError, naming the argument, for inputs that do not fit together or the model.
        """
        config = self.config
        output_attentions = config.output_attentions if output_attentions is None else output_attentions
        wants_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return_dict = config.use_return_dict if return_dict is None else return_dict

        inputs = prepare(
            config,
            self.dtype,
            input_ids,
            attention_mask,
            langs,
            token_type_ids,
            position_ids,
            lengths,
            cache,
            inputs_embeds,
            cache_position,
        )
        blocks = self.blocks()
        head_masks = layer_head_masks(head_mask, [block.attention.n_heads for block in blocks], self.dtype)
        x = self.embed(inputs)
        states: list[Tensor] = [x]
        weights: list[Tensor] = []
        for layer, block in enumerate(blocks):
            attended, layer_weights = block.attention(
                x, inputs.visibility, layer, cache=cache, head_mask=head_masks[layer], output_weights=output_attentions
            )
            x = block.norm1(x + F.dropout(attended, config.dropout, self.training))
            x = block.norm2(x + block.ffn(x))
            x = _zero_padding(x, inputs.token_mask)
            if wants_states:
                states.append(x)
            if layer_weights is not None:
                weights.append(layer_weights)

        output = BaseModelOutput(
            last_hidden_state=x,
            hidden_states=tuple(states) if wants_states else None,
            attentions=tuple(weights) if output_attentions else None,
        )
        return output if return_dict else output.to_tuple()

    def embed(self, inputs: ModelInputs) -> Tensor:
        """The input of the first layer, (B, T, E). The order of the additions is the original's."""
        x = self.embeddings(inputs.ids) if inputs.embeds is None else inputs.embeds
        x = x + self.position_embeddings(inputs.position_ids)
        if inputs.langs is not None and self.lang_embeddings is not None:
            x = x + self.lang_embeddings(inputs.langs)
        if inputs.token_type_ids is not None:
            x = x + self.embeddings(inputs.token_type_ids)
        x = F.dropout(self.layer_norm_emb(x), self.config.dropout, self.training)
        return _zero_padding(x, inputs.token_mask)

    def blocks(self) -> list[Block]:
        """The L layers, first to last."""
        columns = (self.attentions, self.layer_norm1, self.ffns, self.layer_norm2)
        return [Block(*modules) for modules in zip(*columns, strict=True)]  # type: ignore[arg-type]  # untyped lists

    def get_input_embeddings(self) -> nn.Embedding:
        """The word embedding table, (V, E)."""
        return self.embeddings

    def resize_token_embeddings(self, vocab_size: int) -> None:
        """Keep the first rows of the word embedding table and draw new ones as at initialisation."""
        XLMConfig.from_dict(self.config.to_dict(), vocab_size=vocab_size)  # raises if that cannot be
        self.embeddings.weight = resized(self.embeddings.weight, vocab_size, self.config.embed_init_std)
        self.embeddings.num_embeddings = vocab_size
        self.config.vocab_size = vocab_size

    def prune_heads(self, heads: Mapping[int, Iterable[int]]) -> None:
        """Remove attention heads for good: {layer: heads in the numbering of the unpruned model}.

        Heads removed earlier stay removed and may be named again. `config.pruned_heads` is kept up to date, so
        that saved models load.
        """
        wanted = {layer: sorted({*self.config.pruned_heads.get(layer, ()), *new}) for layer, new in heads.items()}
        pruned = self.config.pruned_heads | wanted
        XLMConfig.from_dict(self.config.to_dict(), pruned_heads=pruned)  # raises if that cannot be
        blocks = self.blocks()
        for layer, removed in wanted.items():
            blocks[layer].attention.prune(removed)
        self.config.pruned_heads = pruned


def _zero_padding(x: Tensor, token_mask: Tensor | None) -> Tensor:
    return x if token_mask is None else x * token_mask.to(x.dtype).unsqueeze(-1)
