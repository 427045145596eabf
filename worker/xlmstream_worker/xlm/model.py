"""XLMModel: token, position and language embeddings, then L post-norm transformer layers.

Source: Lample & Conneau 2019 (arXiv:1901.07291); facebookresearch/XLM transformer.py. Data flow of one call:
`inputs.prepare` (shapes, lengths, masks, cache trimming) -> `embed` -> layers -> BaseModelOutput.
"""

from collections.abc import Iterable, Mapping
from typing import ClassVar, NamedTuple, Self

from torch import Tensor, nn
from torch.nn import functional as F

from .body import XLMBody, zero_padding
from .config import XLMConfig
from .errors import ConfigError
from .inputs import layer_head_masks, prepare
from .kv_cache import KVCache
from .layers import FeedForward, SelfAttention, resized
from .outputs import BaseModelOutput, OutputValue
from .shared_body import check_same_body


class Block(NamedTuple):
    """The modules of one layer: x = norm1(x + attention(x)); x = norm2(x + ffn(x))."""

    attention: SelfAttention
    norm1: nn.LayerNorm
    ffn: FeedForward
    norm2: nn.LayerNorm


class XLMModel(XLMBody):
    """The transformer without a head: ids to hidden states."""

    base_prefix: ClassVar[str] = ""

    def __init__(self, config: XLMConfig) -> None:
        super().__init__(config)
        if not config.is_encoder:
            raise ConfigError("is_encoder=False is a translation decoder: use XLMDecoder")
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
            x = zero_padding(x, inputs.token_mask)
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

    def blocks(self) -> list[Block]:
        """The L layers, first to last."""
        columns = (self.attentions, self.layer_norm1, self.ffns, self.layer_norm2)
        return [Block(*modules) for modules in zip(*columns, strict=True)]  # type: ignore[arg-type]  # untyped lists

    def adopt(self, body: Self) -> None:
        """Have every module of another body instead of one's own, so that both are one in memory. Language embeddings
        stay out where this model has none. Raises ConfigError if the bodies are not of one shape."""
        check_same_body(self.config, body.config)
        for name, module in body.named_children():
            if getattr(self, name) is not None:
                setattr(self, name, module)

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
