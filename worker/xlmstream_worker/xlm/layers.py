"""The building blocks of the XLM transformer: attention to itself and to a source text, feed-forward, fixed sinusoidal
positions.

Attribute names are the parameter names of the published checkpoints. Source: Lample & Conneau 2019
(arXiv:1901.07291) section 3; Vaswani et al. 2017 (arXiv:1706.03762) section 3; facebookresearch/XLM transformer.py.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .kv_cache import KVCache


@dataclass(frozen=True)
class Visibility:
    """Which keys each query may attend to. At most one of `causal` and `open` is set; neither means: all of them.

    `causal`: queries and keys are the same T positions and each sees itself and the earlier ones.
    `open`: bool, broadcastable to (B, 1, T, K), True where the key is visible.
    `bias`: `open` as the fused kernel takes it, to be added to the scores. Finite, so that a row with every key
    blocked gets uniform weights instead of NaN.
    """

    causal: bool = False
    open: Tensor | None = None
    bias: Tensor | None = None

    @classmethod
    def only(cls, visible: Tensor, dtype: torch.dtype) -> "Visibility":
        """Of the keys where `visible` is True, for a model of this dtype."""
        bias = torch.zeros_like(visible, dtype=dtype).masked_fill_(~visible, torch.finfo(dtype).min)
        return cls(open=visible, bias=bias)

    def as_mask(self, T: int, device: torch.device) -> Tensor | None:
        """The mask in one form: bool, broadcastable to (B, 1, T, K), or None for all visible."""
        if self.causal:
            return torch.ones(T, T, dtype=torch.bool, device=device).tril()
        return self.open


class Attention(nn.Module):
    """Multi-head attention with biased projections: what both kinds share. Heads can be left out; their width
    D = E / n_heads stays.

    `kept_heads` holds the remaining heads in the numbering of the unpruned layer.
    """

    def __init__(self, dim: int, n_heads: int, dropout: float, pruned: Iterable[int] = ()) -> None:
        super().__init__()
        self.head_dim = dim // n_heads
        self.kept_heads = sorted(set(range(n_heads)) - set(pruned))
        self.dropout = dropout
        inner = len(self.kept_heads) * self.head_dim
        self.q_lin = nn.Linear(dim, inner)
        self.k_lin = nn.Linear(dim, inner)
        self.v_lin = nn.Linear(dim, inner)
        self.out_lin = nn.Linear(inner, dim)

    @property
    def n_heads(self) -> int:
        """H: the heads that remain."""
        return len(self.kept_heads)

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.n_heads, self.head_dim).transpose(1, 2)

    def _fused(self, q: Tensor, k: Tensor, v: Tensor, visibility: Visibility) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=visibility.bias, dropout_p=dropout, is_causal=visibility.causal
        )

    def _merged(self, context: Tensor) -> Tensor:
        """(B, H, T, D) through the output projection to (B, T, E)."""
        merged: Tensor = self.out_lin(context.transpose(1, 2).flatten(2))
        return merged


class SelfAttention(Attention):
    """Attention of the positions of one text to each other. Heads can be pruned."""

    def forward(
        self,
        x: Tensor,
        visibility: Visibility,
        layer: int,
        cache: KVCache | None = None,
        head_mask: Tensor | None = None,
        output_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """(B, T, E) to (B, T, E), and the (B, H, T, K) attention weights if asked for.

        `head_mask` (1, H, 1, 1) scales the weights of whole heads. Without it and without weights to return the
        fused kernel runs; both ways agree to float32 rounding.
        """
        q, k, v = (self._split_heads(projection(x)) for projection in (self.q_lin, self.k_lin, self.v_lin))
        if cache is not None:
            k, v = cache.append(layer, k, v)
        weights = None
        if output_weights or head_mask is not None:
            weights = self._weights(q, k, visibility, head_mask)
            context = weights @ v
        else:
            context = self._fused(q, k, v, visibility)
        return self._merged(context), weights if output_weights else None

    def _weights(self, q: Tensor, k: Tensor, visibility: Visibility, head_mask: Tensor | None) -> Tensor:
        """The explicit attention weights; softmax in float32 whatever the dtype of the model."""
        scores = ((q / self.head_dim**0.5) @ k.transpose(2, 3)).float()
        mask = visibility.as_mask(q.shape[2], q.device)
        if mask is not None:
            # A finite fill, for the same reason as in `Visibility.bias`.
            scores = scores.masked_fill(~mask, torch.finfo(torch.float32).min)
        weights = F.dropout(scores.softmax(-1).type_as(q), self.dropout, self.training)
        return weights if head_mask is None else weights * head_mask

    def prune(self, heads: Iterable[int]) -> None:
        """Remove heads, given in the numbering of the unpruned layer; those already gone are skipped."""
        kept = [place for place, head in enumerate(self.kept_heads) if head not in set(heads)]
        index = torch.arange(self.out_lin.in_features).view(-1, self.head_dim)[kept].flatten()
        self.q_lin, self.k_lin, self.v_lin = (_rows(lin, index) for lin in (self.q_lin, self.k_lin, self.v_lin))
        self.out_lin = _columns(self.out_lin, index)
        self.kept_heads = [self.kept_heads[place] for place in kept]


class CrossAttention(Attention):
    """Attention of the positions of a translation to those of its source."""

    def keys_values(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values (B, H, S, D) of encoder states (B, S, E): the same for every position that asks."""
        return self._split_heads(self.k_lin(source)), self._split_heads(self.v_lin(source))

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, visibility: Visibility) -> Tensor:
        """(B, T, E) to (B, T, E), given `keys_values` of the source and which of its positions are no padding."""
        return self._merged(self._fused(self._split_heads(self.q_lin(x)), keys, values, visibility))


def _rows(linear: nn.Linear, index: Tensor) -> nn.Linear:
    """A linear layer with only the given outputs."""
    index = index.to(linear.weight.device)
    return _linear(linear.weight[index], linear.bias[index])


def _columns(linear: nn.Linear, index: Tensor) -> nn.Linear:
    """A linear layer with only the given inputs."""
    return _linear(linear.weight[:, index.to(linear.weight.device)], linear.bias)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    linear.weight = nn.Parameter(weight.detach().clone())
    linear.bias = nn.Parameter(bias.detach().clone())
    return linear


class FeedForward(nn.Module):
    """Position-wise network E -> 4E -> E with exact (erf) GELU or ReLU.

    `chunk > 0` runs it over that many positions at a time, which must divide T (ValueError): same numbers, less
    memory.
    """

    def __init__(self, dim: int, gelu: bool, dropout: float, chunk: int = 0) -> None:
        super().__init__()
        self.gelu = gelu
        self.dropout = dropout
        self.chunk = chunk
        self.lin1 = nn.Linear(dim, 4 * dim)
        self.lin2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, E) to (B, T, E)."""
        if self.chunk == 0:
            return self.transform(x)
        if x.shape[1] % self.chunk:
            raise ValueError(f"chunk_size_feed_forward {self.chunk} does not divide the {x.shape[1]} positions")
        return torch.cat([self.transform(part) for part in torch.split(x, self.chunk, dim=1)], dim=1)

    def transform(self, x: Tensor) -> Tensor:
        """(..., E) to (..., E), all positions at once."""
        inner = self.lin1(x)
        activated = F.gelu(inner) if self.gelu else F.relu(inner)
        return F.dropout(self.lin2(activated), self.dropout, self.training)


class SinusoidalEmbedding(nn.Embedding):
    """Fixed positions: channel j of position p is sin (j even) or cos (j odd) of p / 10000^(2*floor(j/2)/E).

    A frozen parameter, for checkpoints store it. Source: Vaswani et al. 2017 section 3.5, channels interleaved.
    """

    def __init__(self, n_positions: int, dim: int) -> None:
        super().__init__(n_positions, dim)
        self.weight.requires_grad_(False)

    def fill(self) -> None:
        """Write the table, computed in float64, into the weight."""
        channel = torch.arange(self.embedding_dim, dtype=torch.float64)
        rate = 10000 ** (-2 * (channel // 2) / self.embedding_dim)
        angle = torch.arange(self.num_embeddings, dtype=torch.float64)[:, None] * rate
        with torch.no_grad():
            self.weight.copy_(torch.where(channel % 2 == 0, angle.sin(), angle.cos()))


def resized(parameter: Tensor, rows: int, std: float) -> nn.Parameter:
    """The first `rows` rows of a parameter; rows it does not have are drawn from N(0, std^2)."""
    new = torch.empty(rows, *parameter.shape[1:], dtype=parameter.dtype, device=parameter.device).normal_(0.0, std)
    new[: len(parameter)] = parameter.detach()[:rows]
    return nn.Parameter(new)
