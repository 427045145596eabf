"""What the encoder and the decoder share: embeddings of tokens, positions and languages, and the layers' modules.

Attribute names are the parameter names of the published checkpoints. Source: facebookresearch/XLM transformer.py.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from .config import XLMConfig
from .config_checks import check_config
from .inputs import ModelInputs
from .layers import FeedForward, SelfAttention, SinusoidalEmbedding
from .pretrained import PreTrainedXLM


class XLMBody(PreTrainedXLM):
    """Embeddings and L layers of self-attention and feed-forward, without a way through them.

    Subclasses add their modules and call `initialise()` last.
    """

    def __init__(self, config: XLMConfig) -> None:
        super().__init__(config)
        check_config(config)
        E, eps = config.emb_dim, config.layer_norm_eps
        positions = SinusoidalEmbedding if config.sinusoidal_embeddings else nn.Embedding
        self.position_embeddings = positions(config.max_position_embeddings, E)
        if config.states_languages:
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

    def embed(self, inputs: ModelInputs) -> Tensor:
        """The input of the first layer, (B, T, E). The order of the additions is the original's."""
        x = self.embeddings(inputs.ids) if inputs.embeds is None else inputs.embeds
        x = x + self.position_embeddings(inputs.position_ids)
        if inputs.langs is not None and self.lang_embeddings is not None:
            x = x + self.lang_embeddings(inputs.langs)
        if inputs.token_type_ids is not None:
            x = x + self.embeddings(inputs.token_type_ids)
        x = F.dropout(self.layer_norm_emb(x), self.config.dropout, self.training)
        return zero_padding(x, inputs.token_mask)

    def get_input_embeddings(self) -> nn.Embedding:
        """The word embedding table, (V, E)."""
        return self.embeddings


def zero_padding(x: Tensor, token_mask: Tensor | None) -> Tensor:
    """(B, T, E) with zeros where the mask (B, T) is 0; a fractional mask scales."""
    return x if token_mask is None else x * token_mask.to(x.dtype).unsqueeze(-1)
