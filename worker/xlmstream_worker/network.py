"""The XLM transformer laid out for decoding: fused projections, keys and values in slots, no work whose result nobody
reads.

It computes what `xlm.XLMModel` computes, from the same weights, or `xlm.XLMDecoder`, which reads a source between the
two halves of each layer. It knows slots and positions, not requests. Source: Lample & Conneau 2019 (arXiv:1901.07291);
the layer is x = norm1(x + attention(x)); [x = norm15(x + cross_attention(x, source));] x = norm2(x + ffn(x)).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .cache import SlotCache
from .cross import SourceCache
from .kernels import settle_kernels
from .layers import Layer, layer_of, norm_of
from .linear import Linear
from .xlm import XLMDecoder, XLMWithLMHeadModel

Read = Callable[[Tensor], Tensor]
"""Queries (N, inner) of a layer's cross-attention to what they read of the sources, (N, inner)."""

_VOCABULARY_MULTIPLE = 256


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens start..stop of the prompt in a slot."""

    slot: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Tokens:
    """N tokens to compute: int64 (N,) each."""

    ids: Tensor
    positions: Tensor
    languages: Tensor


@dataclass(frozen=True, slots=True)
class Run:
    """Sequences of equal length that lie side by side."""

    count: int
    length: int
    bias: Tensor | None = None
    """(count, 1, 1, length): what to add to the attention scores; None: every position sees every other."""


class Network:
    """The weights of one model on one device in one dtype, and the ways of running them.

    V is the vocabulary rounded up to a multiple of 256: scores beyond it are minus infinity. Kernels want it so.
    """

    def __init__(self, model: XLMWithLMHeadModel | XLMDecoder, device: torch.device, dtype: torch.dtype) -> None:
        core = model if isinstance(model, XLMDecoder) else model.transformer
        config = model.config
        if not isinstance(model.pred_layer.proj, nn.Linear):
            raise ValueError("a model with an adaptive softmax (asm) cannot be decoded")

        settle_kernels(device)

        def place(tensor: Tensor) -> Tensor:
            return tensor.detach().to(device=device, dtype=dtype)

        self.dtype = dtype
        self.head_dim = config.emb_dim // config.n_heads
        self.words = _padded(place(core.embeddings.weight), 0.0)
        self.device = self.words.device  # "cuda" has got its number, as other tensors there tell it
        self.positions = place(core.position_embeddings.weight)
        self.languages: Tensor | None = None
        if core.lang_embeddings is not None:
            table = place(core.lang_embeddings.weight)
            # One more row, of zeros: the language of requests that name none.
            self.languages = torch.cat([table, table.new_zeros(1, table.shape[1])])
        self.no_language = core.lang_embeddings.num_embeddings if core.lang_embeddings is not None else 0
        self.norm = norm_of(core.layer_norm_emb, place)
        self.activation = F.gelu if config.gelu_activation else F.relu
        self.layers = [layer_of(block, place) for block in core.blocks()]
        last = self.layers[-1]
        self.last_q = Linear(last.qkv.weight[: last.inner], last.qkv.bias[: last.inner])
        self.last_kv = Linear(last.qkv.weight[last.inner :], last.qkv.bias[last.inner :])
        for layer in self.layers:
            for linear in (layer.qkv, layer.out, layer.lin1, layer.lin2):
                linear.forget_weight()
        tied = model.pred_layer.proj.weight is core.embeddings.weight
        self.head = Linear(
            self.words if tied else _padded(place(model.pred_layer.proj.weight), 0.0),
            _padded(place(model.pred_layer.proj.bias), -torch.inf),
        )

    @property
    def heads(self) -> list[int]:
        """Heads per layer, for the cache."""
        return [layer.heads for layer in self.layers]

    @property
    def source_heads(self) -> list[int]:
        """Heads of the cross-attention per layer; none in a model that reads no source."""
        return [layer.cross.q.weight.shape[0] // self.head_dim for layer in self.layers if layer.cross is not None]

    def source_projections(self, states: Tensor) -> Iterator[Tensor]:
        """Keys, then values (N, 2 * inner) of every layer for encoder states (N, E)."""
        for layer in self.layers:
            if layer.cross is not None:
                yield layer.cross.kv(states)

    def prefill(
        self,
        ids: Tensor,
        positions: Tensor,
        languages: Tensor,
        places: Tensor,
        spans: Sequence[Span],
        cache: SlotCache,
    ) -> None:
        """Store the keys and values of N prompt tokens, of several prompts one after the other as `spans` say.

        All int64 (N,); `places` in the cache are slot * T + position. Nothing else is computed: the last token of a
        prompt is left to `decode`, so the last layer needs no queries.
        """
        x = self._embed(ids, positions, languages)
        for number, layer in enumerate(self.layers):
            if layer is self.layers[-1]:
                cache.write(number, places, self.last_kv(x))
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
            x = self._finish_layer(layer, x, torch.cat(attended), _span_reader(cache.sources, number, spans))

    def decode(
        self,
        ids: Tensor,
        positions: Tensor,
        languages: Tensor,
        slots: slice,
        context: int,
        cache: SlotCache,
        ragged: bool,
        source_context: int = 0,
    ) -> Tensor:
        """The last state (B, E) of each of a range of B slots after its newest tokens.

        `ids`, `positions` int64 (B, Q): Q = 1 for the newest token, or 2 with a mask token behind it, whose keys and
        values are overwritten by the next step. `context`: at least every position + 1. `ragged` False promises that
        each last query sees exactly `context` positions, and `source_context` of its source, so that Q = 1 needs no
        mask. `source_context`: at least the positions of every source, in a model that reads them.
        """
        B, Q = ids.shape
        bias = self._bias(positions, context) if ragged or Q > 1 else None
        store = cache.writer(slots, positions)
        sources, hidden = cache.sources, None
        if sources is not None and ragged:
            hidden = closed_bias(sources.visible(slots, source_context), self.dtype)
        x = self._embed(ids, positions, languages[:, None]).flatten(0, 1)
        for number, layer in enumerate(self.layers):
            qkv = layer.qkv(x)
            store(number, qkv)
            q = qkv[:, : layer.inner].view(B, Q, layer.heads, self.head_dim).transpose(1, 2)
            if layer is self.layers[-1] and Q > 1:  # only the mask's own scores are read
                q, x = q[:, :, -1:], x.view(B, Q, -1)[:, -1]
                bias = None if bias is None else bias[:, :, -1:]
            k, v = cache.read(number, slots, context)
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
            read = None
            if sources is not None:
                read = partial(sources.attend, number, slots=slots, context=source_context, bias=hidden)
            x = self._finish_layer(layer, x, attended.transpose(1, 2).reshape(-1, layer.inner), read)
        return x

    def recompute(self, tokens: Tokens, runs: Sequence[Run], last: Tensor) -> Tensor:
        """The state (B, E) of one position of each of B sequences, computed whole and without a cache.

        The sequences lie one after the other in `tokens`, run by run; `last` int64 (B,) are the positions among them.
        """
        x = self._embed(tokens.ids, tokens.positions, tokens.languages)
        for layer in self.layers[:-1]:
            qkv = layer.qkv(x)
            x = self._finish_layer(layer, x, self._attend_runs(layer, qkv, runs, None))
        layer = self.layers[-1]  # of which one position is read: only keys and values of the others
        keys_values, x = self.last_kv(x), x[last]
        return self._finish_layer(layer, x, self._attend_runs(layer, keys_values, runs, self.last_q(x)))

    def scores(self, states: Tensor) -> Tensor:
        """Scores (B, V) of the token that belongs where the states (B, E) are read."""
        return self.head(states)

    def _embed(self, ids: Tensor, positions: Tensor, languages: Tensor) -> Tensor:
        x = F.embedding(ids, self.words) + F.embedding(positions, self.positions)
        if self.languages is not None:
            x = x + F.embedding(languages, self.languages)
        return self.norm(x)

    def _finish_layer(self, layer: Layer, x: Tensor, attended: Tensor, read: Read | None = None) -> Tensor:
        x = layer.norm1(layer.out(attended).add_(x))
        if layer.cross is not None and read is not None:
            x = layer.cross.norm(layer.cross.out(read(layer.cross.q(x))).add_(x))
        return layer.norm2(layer.lin2(self.activation(layer.lin1(x))).add_(x))

    def _attend_runs(self, layer: Layer, projected: Tensor, runs: Sequence[Run], queries: Tensor | None) -> Tensor:
        """What the positions of all runs see (N, inner). `projected` (N, 3 * inner) are queries, keys and values; or
        (N, 2 * inner) keys and values, with one of the `queries` (B, inner) for each sequence."""
        attended, start, row = [], 0, 0
        for run in runs:
            stop = start + run.count * run.length
            parts = projected[start:stop].view(run.count, run.length, -1, layer.heads, self.head_dim).transpose(1, 3)
            k, v = parts[:, :, -2], parts[:, :, -1]
            if queries is None:
                q = parts[:, :, 0]
            else:
                q = queries[row : row + run.count].view(run.count, layer.heads, 1, self.head_dim)
            seen = F.scaled_dot_product_attention(q, k, v, attn_mask=run.bias)
            attended.append(seen.transpose(1, 2).reshape(-1, layer.inner))
            start, row = stop, row + run.count
        return attended[0] if len(attended) == 1 else torch.cat(attended)

    def _bias(self, positions: Tensor, context: int) -> Tensor:
        """(B, 1, Q, context): a query sees its own position and those before it."""
        return closed_bias((torch.arange(context, device=self.device) <= positions[..., None])[:, None], self.dtype)

    def _attend_span(self, q: Tensor, k: Tensor, v: Tensor, start: int) -> Tensor:
        """(n, inner): n queries from position `start` on, each seeing its own position and those before it."""
        n, context = q.shape[2], k.shape[2]
        if start == 0:
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            own = torch.arange(start, context, device=self.device)
            bias = closed_bias(torch.arange(context, device=self.device) <= own[:, None], self.dtype)
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return attended[0].transpose(0, 1).reshape(n, -1)


def _padded(table: Tensor, fill: float) -> Tensor:
    """The table with its rows filled up to a multiple of _VOCABULARY_MULTIPLE."""
    missing = -table.shape[0] % _VOCABULARY_MULTIPLE
    return torch.cat([table, table.new_full((missing, *table.shape[1:]), fill)]) if missing else table


def closed_bias(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """What to add to attention scores: 0 where visible, the lowest number elsewhere."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, torch.finfo(dtype).min)


def _span_reader(sources: SourceCache | None, layer: int, spans: Sequence[Span]) -> Read | None:
    """How the tokens of several prompts, one after the other, read each its own source."""
    if sources is None:
        return None

    def read(queries: Tensor) -> Tensor:
        parts = torch.split(queries, [span.stop - span.start for span in spans])
        return torch.cat([sources.attend_one(layer, part, span.slot) for part, span in zip(parts, spans, strict=True)])

    return read
