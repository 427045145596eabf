"""The XLM transformer laid out for decoding: fused projections, keys and values in slots, no work whose result nobody
reads.

It computes what `xlm.XLMModel` computes, from the same weights. It knows slots and positions, not requests.
Source: Lample & Conneau 2019 (arXiv:1901.07291); the layer is x = norm1(x + attention(x)); x = norm2(x + ffn(x)).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .cache import SlotCache
from .linear import Linear
from .xlm import XLMWithLMHeadModel
from .xlm.model import Block

Placer = Callable[[Tensor], Tensor]

_VOCABULARY_MULTIPLE = 256


@dataclass(frozen=True, slots=True)
class Norm:
    weight: Tensor
    bias: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: `qkv` projects to queries, keys and values of `heads` heads at once."""

    qkv: Linear
    out: Linear
    norm1: Norm
    lin1: Linear
    lin2: Linear
    norm2: Norm
    heads: int
    inner: int
    """heads * head width: columns of the queries in `qkv`."""


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens start..stop of the prompt in a slot."""

    slot: int
    start: int
    stop: int


class Network:
    """The weights of one model on one device in one dtype, and the ways of running them.

    V is the vocabulary rounded up to a multiple of 256: scores beyond it are minus infinity. Kernels want it so.
    """

    def __init__(self, model: XLMWithLMHeadModel, device: torch.device, dtype: torch.dtype) -> None:
        core, config = model.transformer, model.config
        if not isinstance(model.pred_layer.proj, nn.Linear):
            raise ValueError("a model with an adaptive softmax (asm) cannot be decoded")

        def place(tensor: Tensor) -> Tensor:
            return tensor.detach().to(device=device, dtype=dtype)

        self.device, self.dtype = device, dtype
        self.head_dim = config.emb_dim // config.n_heads
        self.words = _padded(place(core.embeddings.weight), 0.0)
        self.positions = place(core.position_embeddings.weight)
        self.languages: Tensor | None = None
        if core.lang_embeddings is not None:
            table = place(core.lang_embeddings.weight)
            # One more row, of zeros: the language of requests that name none.
            self.languages = torch.cat([table, table.new_zeros(1, table.shape[1])])
        self.no_language = core.lang_embeddings.num_embeddings if core.lang_embeddings is not None else 0
        self.norm = _norm(core.layer_norm_emb, place)
        self.activation = F.gelu if config.gelu_activation else F.relu
        self.layers = [_layer(block, place) for block in core.blocks()]
        tied = model.pred_layer.proj.weight is core.embeddings.weight
        self.head = Linear(
            self.words if tied else _padded(place(model.pred_layer.proj.weight), 0.0),
            _padded(place(model.pred_layer.proj.bias), -torch.inf),
        )

    @property
    def heads(self) -> list[int]:
        """Heads per layer, for the cache."""
        return [layer.heads for layer in self.layers]

    def prefill(
        self, ids: Tensor, positions: Tensor, languages: Tensor, spans: Sequence[Span], cache: SlotCache
    ) -> None:
        """Store the keys and values of N prompt tokens, of several prompts one after the other as `spans` say.

        `ids`, `positions`, `languages` int64 (N,). Nothing else is computed: the last token of a prompt is left to
        `decode`, so the last layer needs no queries.
        """
        places = torch.cat([torch.arange(s.start, s.stop) + s.slot * cache.positions for s in spans]).to(self.device)
        x = self._embed(ids, positions, languages)
        for number, layer in enumerate(self.layers):
            if layer is self.layers[-1]:
                kv = F.linear(x, layer.qkv.weight[layer.inner :], layer.qkv.bias[layer.inner :])
                cache.write(number, places, kv)
                return
            qkv = layer.qkv(x)
            cache.write(number, places, qkv[:, layer.inner :])
            queries = qkv[:, : layer.inner].view(-1, layer.heads, self.head_dim).transpose(0, 1)
            attended, offset = [], 0
            for span in spans:
                n = span.stop - span.start
                k, v = cache.read(number, slice(span.slot, span.slot + 1), span.stop)
                q = queries[None, :, offset : offset + n]
                attended.append(self._attend_span(q, k, v, span.start))
                offset += n
            x = self._finish_layer(layer, x, torch.cat(attended))

    def decode(
        self,
        ids: Tensor,
        positions: Tensor,
        languages: Tensor,
        slots: slice,
        context: int,
        cache: SlotCache,
        ragged: bool,
    ) -> Tensor:
        """Scores float32 (B, V) after the newest tokens of a range of B slots.

        `ids`, `positions` int64 (B, Q): Q = 1 for the newest token, or 2 with a mask token behind it, whose keys and
        values are overwritten by the next step. `context`: at least every position + 1. `ragged` False promises that
        each last query sees exactly `context` positions, so that Q = 1 needs no mask.
        """
        B, Q = ids.shape
        places = (
            positions + torch.arange(slots.start, slots.stop, device=self.device)[:, None] * cache.positions
        ).flatten()
        bias = self._bias(positions, context) if ragged or Q > 1 else None
        x = self._embed(ids, positions, languages[:, None]).flatten(0, 1)
        for number, layer in enumerate(self.layers):
            qkv = layer.qkv(x)
            cache.write(number, places, qkv[:, layer.inner :])
            q = qkv[:, : layer.inner].view(B, Q, layer.heads, self.head_dim).transpose(1, 2)
            if layer is self.layers[-1] and Q > 1:  # only the mask's own scores are read
                q, x = q[:, :, -1:], x.view(B, Q, -1)[:, -1]
                bias = None if bias is None else bias[:, :, -1:]
            k, v = cache.read(number, slots, context)
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
            x = self._finish_layer(layer, x, attended.transpose(1, 2).reshape(-1, layer.inner))
        return self.head(x).float()

    def recompute(self, ids: Tensor, languages: Tensor, visible: Tensor, query: Tensor) -> Tensor:
        """Scores float32 (B, V) at position `query` (B,) of whole rows `ids` (B, T), without a cache.

        `visible` bool (B, T): the positions that every position may attend to. A query that is not visible itself
        gets the bias of the head, as its state is zeroed.
        """
        B, T = ids.shape
        positions = torch.arange(T, device=self.device)[None]
        bias = _open(visible[:, None, None], self.dtype)
        last = torch.arange(0, B * T, T, device=self.device) + query  # of the rows laid one after the other
        x = self._embed(ids, positions, languages[:, None]).flatten(0, 1)
        for layer in self.layers:
            qkv = layer.qkv(x).view(B, T, 3, layer.heads, self.head_dim).permute(2, 0, 3, 1, 4)
            q, k, v = qkv[0], qkv[1], qkv[2]
            if layer is self.layers[-1]:  # only one position's scores are read
                q = q[torch.arange(B, device=self.device), :, query][:, :, None]
                x = x[last]
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
            x = self._finish_layer(layer, x, attended.transpose(1, 2).reshape(-1, layer.inner))
        return self.head(x * visible.flatten()[last, None]).float()

    def _embed(self, ids: Tensor, positions: Tensor, languages: Tensor) -> Tensor:
        x = F.embedding(ids, self.words) + F.embedding(positions, self.positions)
        if self.languages is not None:
            x = x + F.embedding(languages, self.languages)
        return self.norm(x)

    def _finish_layer(self, layer: Layer, x: Tensor, attended: Tensor) -> Tensor:
        x = layer.norm1(layer.out(attended).add_(x))
        return layer.norm2(layer.lin2(self.activation(layer.lin1(x))).add_(x))

    def _bias(self, positions: Tensor, context: int) -> Tensor:
        """(B, 1, Q, context): a query sees its own position and those before it."""
        return _open((torch.arange(context, device=self.device) <= positions[..., None])[:, None], self.dtype)

    def _attend_span(self, q: Tensor, k: Tensor, v: Tensor, start: int) -> Tensor:
        """(n, inner): n queries from position `start` on, each seeing its own position and those before it."""
        n, context = q.shape[2], k.shape[2]
        if start == 0:
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            own = torch.arange(start, context, device=self.device)
            bias = _open(torch.arange(context, device=self.device) <= own[:, None], self.dtype)
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return attended[0].transpose(0, 1).reshape(n, -1)


def _padded(table: Tensor, fill: float) -> Tensor:
    """The table with its rows filled up to a multiple of _VOCABULARY_MULTIPLE."""
    missing = -table.shape[0] % _VOCABULARY_MULTIPLE
    return torch.cat([table, table.new_full((missing, *table.shape[1:]), fill)]) if missing else table


def _open(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """What to add to attention scores: 0 where visible, the lowest number elsewhere."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, torch.finfo(dtype).min)


def _norm(module: nn.LayerNorm, place: Placer) -> Norm:
    return Norm(place(module.weight), place(module.bias), module.eps)


def _linear(module: nn.Linear, place: Placer) -> Linear:
    return Linear(place(module.weight), place(module.bias))


def _layer(block: Block, place: Placer) -> Layer:
    attention = block.attention
    projections = (attention.q_lin, attention.k_lin, attention.v_lin)
    return Layer(
        qkv=Linear(
            torch.cat([place(linear.weight) for linear in projections]),
            torch.cat([place(linear.bias) for linear in projections]),
        ),
        out=_linear(attention.out_lin, place),
        norm1=_norm(block.norm1, place),
        lin1=_linear(block.ffn.lin1, place),
        lin2=_linear(block.ffn.lin2, place),
        norm2=_norm(block.norm2, place),
        heads=attention.n_heads,
        inner=attention.n_heads * attention.head_dim,
    )
