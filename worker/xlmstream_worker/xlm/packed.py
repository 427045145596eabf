"""Packed (padding-free) encoding: many sequences of different lengths in one pass, without computing on padding.

The tokens of all sequences form one row of N vectors. Everything but attention works on single vectors and takes
that row as it is; how attention does is in `packed_attention`. On a CPU a few hundred tokens at a time pass the layers:
what is between two layers stays in its cache. Equal to one forward per sequence up to rounding.

    batch = pack([[0, 17, 9, 1], [0, 5, 1]], langs=[1, None])
    states = encode_packed(model, batch)        # states.values (7, E); states[0] (4, E); states[1] (3, E)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .layers import SelfAttention
from .model import XLMModel
from .packed_attention import Attend, GroupedAttention, Run, RunAttention, placed, runs_of

# As fast on a CPU as more would be, and whoever makes code for each number of rows, as oneDNN does, sees few of them.
PART_TOKENS = 512


class Lookup(NamedTuple):
    """Table rows `ids` to be added at the tokens `places`, both int64 of one length; places None: at all tokens."""

    places: Tensor | None
    ids: Tensor


@dataclass(frozen=True)
class PackedBatch:
    """Sequences laid out one after the other, those of equal length beside each other.

    Attributes:
        ids, position_ids: int64 (N,).
        langs, token_types: what to add for the sequences that have them; None if none has.
        starts, lengths: where each sequence lies, in the caller's order.
        runs: the groups of equal length, in the order of the tokens.
    """

    ids: Tensor
    position_ids: Tensor
    langs: Lookup | None
    token_types: Lookup | None
    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    runs: tuple[Run, ...]

    def __len__(self) -> int:
        return len(self.lengths)


def pack(
    sequences: Sequence[Sequence[int]],
    *,
    langs: Sequence[int | Sequence[int] | None] | None = None,
    token_type_ids: Sequence[Sequence[int] | None] | None = None,
    device: torch.device | str = "cpu",
) -> PackedBatch:
    """Lay out token ids for `encode_packed`. Every id counts, padding ids too: leave padding out.

    `langs`: per sequence one language, one per token, or None for no language. `token_type_ids`: per sequence one
    per token, or None for none (which is not the same as zeros, see XLMModel). Raises ValueError for an empty
    sequence or for lists that do not match.
    """
    if not sequences:
        raise ValueError("there is no sequence to pack")
    lengths = tuple(len(ids) for ids in sequences)
    if 0 in lengths:
        raise ValueError(f"sequence {lengths.index(0)} is empty")
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    offsets = [0, *accumulate(lengths[row] for row in order)]
    starts = [0] * len(order)
    for place, row in enumerate(order):
        starts[row] = offsets[place]
    for name, values in (("langs", langs), ("token_type_ids", token_type_ids)):
        if values is not None and len(values) != len(lengths):
            raise ValueError(f"{name} has {len(values)} entries for {len(lengths)} sequences")
    per_token_langs = None
    if langs is not None:
        pairs = zip(langs, lengths, strict=True)
        per_token_langs = [[lang] * length if isinstance(lang, int) else lang for lang, length in pairs]
    return PackedBatch(
        ids=placed(torch.tensor(list(chain.from_iterable(sequences[row] for row in order))), device),
        position_ids=placed(torch.cat([torch.arange(lengths[row]) for row in order]), device),
        langs=_lookup("langs", per_token_langs, order, offsets, lengths, device),
        token_types=_lookup("token_type_ids", token_type_ids, order, offsets, lengths, device),
        starts=tuple(starts),
        lengths=lengths,
        runs=runs_of([lengths[row] for row in order]),
    )


def _lookup(
    name: str,
    values: Sequence[Sequence[int] | None] | None,
    order: Sequence[int],
    offsets: Sequence[int],
    lengths: Sequence[int],
    device: torch.device | str,
) -> Lookup | None:
    if values is None or all(value is None for value in values):
        return None
    places: list[int] = []
    ids: list[int] = []
    for place, row in enumerate(order):
        value = values[row]
        if value is None:
            continue
        if len(value) != lengths[row]:
            raise ValueError(f"{name}[{row}] has {len(value)} entries for {lengths[row]} tokens")
        places.extend(range(offsets[place], offsets[place + 1]))
        ids.extend(value)
    everywhere = len(places) == offsets[-1]
    on_device = placed(torch.tensor(ids), device)
    return Lookup(None if everywhere else placed(torch.tensor(places), device), on_device)


@dataclass(frozen=True)
class PackedStates:
    """Hidden states of a packed batch: `values` (N, E), and per sequence, in the caller's order, by index."""

    values: Tensor
    batch: PackedBatch

    def __getitem__(self, index: int) -> Tensor:
        """(T, E): the hidden states of sequence `index`, a view."""
        start = self.batch.starts[index]
        return self.values[start : start + self.batch.lengths[index]]

    def __len__(self) -> int:
        return len(self.batch)


@torch.no_grad()
def encode_packed(model: XLMModel, batch: PackedBatch, *, layer: int | None = None) -> PackedStates:
    """The hidden states of every sequence of `batch` after all layers, or after the first `layer` of them (0: the
    embeddings). For inference: no gradients. Model and batch are on one device.

    Raises ValueError for a model in training mode, a sequence longer than the model's positions, or a layer it does
    not have.
    """
    encoding = PackedEncoding(model, batch)
    depth = encoding.layers if layer is None else layer
    if not 0 <= depth <= encoding.layers:
        raise ValueError(f"layer must be from 0 to {encoding.layers}, not {layer}")
    encoding.advance(depth)
    return encoding.states


class PackedEncoding:
    """A packed batch on its way through the layers of a model, as many at a time as suits the caller.

    Attributes:
        layers: how many the model has.
        done: how many the batch has passed.
    """

    def __init__(self, model: XLMModel, batch: PackedBatch) -> None:
        """Computes the embeddings. Raises ValueError as `encode_packed`."""
        if model.training:
            raise ValueError("packed encoding is for inference: call model.eval() first")
        if max(batch.lengths) > model.config.max_position_embeddings:
            raise ValueError(
                f"a sequence of {max(batch.lengths)} tokens exceeds max_position_embeddings "
                f"{model.config.max_position_embeddings}"
            )
        self._blocks = model.blocks()
        self._causal = model.config.causal
        self._batch = batch
        self._parts = _parts(batch) if batch.ids.is_cpu else _whole(batch)
        with torch.no_grad():
            self._x = _embed(model, batch)
        self.layers, self.done = len(self._blocks), 0

    @torch.no_grad()
    def advance(self, layers: int) -> None:
        """Pass the next `layers` layers, or those that are left."""
        blocks = self._blocks[self.done : self.done + layers]
        for rows, attend in self._parts:
            x = self._x[rows]
            for block in blocks:
                x = block.norm1(x.add_(_attention(block.attention, x, attend, self._causal)))
                x = block.norm2(block.ffn.transform(x).add_(x))
            self._x[rows] = x
        self.done += len(blocks)

    @property
    def states(self) -> PackedStates:
        """The hidden states after the layers passed so far. They are overwritten by the next ones."""
        return PackedStates(self._x, self._batch)


def _embed(model: XLMModel, batch: PackedBatch) -> Tensor:
    x = model.embeddings(batch.ids).add_(model.position_embeddings(batch.position_ids))
    if batch.langs is not None and model.lang_embeddings is not None:
        _add(x, batch.langs, model.lang_embeddings)
    if batch.token_types is not None:
        _add(x, batch.token_types, model.embeddings)
    embedded: Tensor = model.layer_norm_emb(x)
    return embedded


def _add(x: Tensor, lookup: Lookup, table: nn.Embedding) -> None:
    vectors = table(lookup.ids)
    if lookup.places is None:
        x.add_(vectors)
    else:
        x.index_add_(0, lookup.places, vectors)


def _attention(module: SelfAttention, x: Tensor, attend: Attend, causal: bool) -> Tensor:
    """(N, E) to (N, E)."""
    heads = (len(x), module.n_heads, module.head_dim)
    q, k, v = (projection(x).view(heads) for projection in (module.q_lin, module.k_lin, module.v_lin))
    projected: Tensor = module.out_lin(attend(q, k, v, causal).flatten(1))
    return projected


class Part(NamedTuple):
    """Whole sequences that pass the layers together: the tokens `rows`."""

    rows: slice
    attend: Attend


def _whole(batch: PackedBatch) -> list[Part]:
    return [Part(slice(0, len(batch.ids)), GroupedAttention(batch.runs, batch.position_ids))]


def _parts(batch: PackedBatch) -> list[Part]:
    """Parts of PART_TOKENS at most, but for a single longer sequence."""
    groups: list[list[int]] = []
    room = 0
    for length in (length for _, sequences, length in batch.runs for _ in range(sequences)):
        if length > room or not groups:
            groups.append([])
            room = PART_TOKENS
        groups[-1].append(length)
        room -= length
    ends = [0, *accumulate(map(sum, groups))]
    rows = (slice(start, end) for start, end in pairwise(ends))
    return [Part(where, RunAttention(runs_of(group))) for where, group in zip(rows, groups, strict=True)]
