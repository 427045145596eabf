"""The weights of XLM's layers laid out for decoding: projections of the same input are one product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .linear import Linear
from .xlm.decoder import DecoderBlock
from .xlm.model import Block

Placer = Callable[[Tensor], Tensor]
"""A weight of the model to the same on the device, in the dtype."""


@dataclass(frozen=True, slots=True)
class Norm:
    weight: Tensor
    bias: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


@dataclass(frozen=True, slots=True)
class Cross:
    """The cross-attention of one layer: `kv` projects the encoder's states to keys and values at once."""

    q: Linear
    kv: Linear
    out: Linear
    norm: Norm


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
    cross: Cross | None = None
    """In the decoder of a translation model."""


def norm_of(module: nn.LayerNorm, place: Placer) -> Norm:
    """Sharing the placed weights."""
    return Norm(place(module.weight), place(module.bias), module.eps)


def _linear(module: nn.Linear, place: Placer) -> Linear:
    return Linear(place(module.weight), place(module.bias))


def _fused(modules: Sequence[nn.Linear], place: Placer) -> Linear:
    weight = torch.cat([place(module.weight) for module in modules])
    return Linear(weight, torch.cat([place(module.bias) for module in modules]))


def _cross(block: DecoderBlock, place: Placer) -> Cross:
    attention = block.cross_attention
    return Cross(
        q=_linear(attention.q_lin, place),
        kv=_fused((attention.k_lin, attention.v_lin), place),
        out=_linear(attention.out_lin, place),
        norm=norm_of(block.norm15, place),
    )


def layer_of(block: Block | DecoderBlock, place: Placer) -> Layer:
    """The weights of a layer of an encoder, or of a translation model's decoder."""
    attention = block.attention
    return Layer(
        qkv=_fused((attention.q_lin, attention.k_lin, attention.v_lin), place),
        out=_linear(attention.out_lin, place),
        norm1=norm_of(block.norm1, place),
        lin1=_linear(block.ffn.lin1, place),
        lin2=_linear(block.ffn.lin2, place),
        norm2=norm_of(block.norm2, place),
        heads=attention.n_heads,
        inner=attention.n_heads * attention.head_dim,
        cross=_cross(block, place) if isinstance(block, DecoderBlock) else None,
    )
