"""Encoder throughput: packed encoding against transformers' padded batches, one thread, equal outputs.

    python -m benchmarks.encoder [--sizes S M L] [--batches N] [--layers N] [--json FILE]

Both sides get the same requests in the order of arrival, 32 at a time, as token ids: tokenisation is another
benchmark. transformers pads each batch to its longest row, as its feature-extraction pipeline does. It, our own padded
forward, our packed encoding and the same with prepacked layers, as workers serve it, take turns on each batch; figures
are tokens (of text, not padding) per CPU second. Every packed state is compared with transformers' before its time
counts.

Lengths are drawn from the log-normal distribution fitted to 1,651 real English and French sentences under the
64,139-entry XLM vocabulary (median 14 tokens): 70-75 % of the padded positions are padding.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch reads it

import argparse
import copy
import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
import transformers
from torch import Tensor
from xlmstream_worker.prepacking import PrepackedLinear, prepack
from xlmstream_worker.xlm import XLMConfig, XLMModel, encode_packed, pack

from benchmarks.report import Spread, Table, finish, parser

T = TypeVar("T")

ROWS = 32
TOLERANCE = 1e-5
MEDIAN_LENGTH, LENGTH_SIGMA, SHORTEST, LONGEST = 14.4, 0.683, 4, 256
PAD = 2


@dataclass(frozen=True)
class Size:
    """A published shape. `layers_run` of its `layers` are built by default, to stay within a minute and a few GB:
    every layer costs the same, so the ratio is that of the whole model but for its embeddings."""

    layers: int
    layers_run: int
    width: int
    heads: int
    vocab: int
    target: float


SIZES = {
    "S": Size(4, 4, 256, 4, 30_000, 3.5),
    "M": Size(6, 6, 1024, 8, 64_139, 2.2),
    "L": Size(12, 2, 2048, 16, 30_145, 2.0),
}
DEFAULT_BATCHES = {"S": 12, "M": 2, "L": 2}


@dataclass
class Timing:
    """CPU seconds of each way, per batch."""

    transformers: list[float] = field(default_factory=list)
    padded: list[float] = field(default_factory=list)
    packed: list[float] = field(default_factory=list)
    served: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    difference: float = 0.0


class Models:
    """The same weights, three times."""

    def __init__(self, theirs: torch.nn.Module, ours: XLMModel) -> None:
        self.theirs, self.ours, self.served = theirs, ours, copy.deepcopy(ours)
        prepack(self.served)


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="default: all")
    options.add_argument("--batches", type=int, help=f"batches of {ROWS}; default by size: {DEFAULT_BATCHES}")
    options.add_argument("--layers", type=int, help="layers to build; default: all, for L two of twelve")
    arguments = options.parse_args()
    torch.set_num_threads(1)
    columns = ("size", "layers", "tokens", "padding", "transformers", "ours, padded", "packed", "packed and prepacked")
    table = Table(
        "Encoder, tokens of text per CPU second; ratios of the whole run, then median and range over batches",
        (*columns, "packed and prepacked / transformers", "target", "of linear ceiling", "largest difference"),
    )
    for name in arguments.sizes:
        table.rows.append(measure(name, arguments))
    table.notes.append(
        "The ceiling is what the linear layers alone would take at the speed of a prepacked matrix product."
    )
    finish([table], arguments.json)
    return 0


def measure(name: str, arguments: argparse.Namespace) -> Sequence[str]:
    """One row of the table."""
    size = SIZES[name]
    layers = arguments.layers or size.layers_run
    models = Models(*build(size, layers))
    generator = random.Random(0)
    batches = [arrivals(generator, size.vocab) for _ in range(arguments.batches or DEFAULT_BATCHES[name])]
    with torch.inference_mode():
        time_batch(models, [[5] * 8, [6] * 4], Timing())  # warm up
        timing = Timing()
        for batch in batches:
            time_batch(models, batch, timing)
        tokens = sum(timing.tokens)
        ceiling = tokens * layers * 24 * size.width**2 / linear_flops(size.width, tokens // len(timing.tokens))
    ways = (timing.transformers, timing.padded, timing.packed, timing.served)
    ratios = [a / b for a, b in zip(timing.transformers, timing.served, strict=True)]
    return (
        name,
        f"{layers} of {size.layers}",
        str(tokens),
        f"{1 - tokens / sum(timing.positions):.0%}",
        *(f"{rate(timing, seconds):.0f}" for seconds in ways),
        f"{sum(timing.transformers) / sum(timing.served):.2f}x, by batch {Spread.of(ratios):.2f}",
        f">= {size.target}x",
        f"{ceiling / sum(timing.served):.2f}",
        f"{timing.difference:.1e}",
    )


def build(size: Size, layers: int) -> tuple[torch.nn.Module, XLMModel]:
    """The same random weights in both implementations."""
    fields = {"vocab_size": size.vocab, "emb_dim": size.width, "n_layers": layers, "n_heads": size.heads}
    torch.manual_seed(0)
    ours = XLMModel(XLMConfig(**fields)).eval()
    with torch.device("meta"):
        theirs = transformers.XLMModel(transformers.XLMConfig(**fields))
    state = dict(ours.state_dict())
    theirs.load_state_dict(state, assign=True)
    theirs.position_ids = torch.arange(512)[None]  # a buffer that no state dict holds
    return theirs.eval(), ours


def arrivals(generator: random.Random, vocab: int) -> list[list[int]]:
    """One batch of token ids."""
    lengths = [
        min(max(round(generator.lognormvariate(math.log(MEDIAN_LENGTH), LENGTH_SIGMA)), SHORTEST), LONGEST)
        for _ in range(ROWS)
    ]
    return [[generator.randrange(14, vocab) for _ in range(length)] for length in lengths]


def padded(batch: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, both (B, T)."""
    width = max(map(len, batch))
    ids = torch.tensor([[*row, *[PAD] * (width - len(row))] for row in batch])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in batch])
    return ids, mask


def time_batch(models: Models, batch: Sequence[Sequence[int]], timing: Timing) -> None:
    """Each way once, list of ids to states; the states compared, then the times noted."""

    def forward(model: torch.nn.Module) -> Tensor:
        ids, mask = padded(batch)
        states: Tensor = model(ids, attention_mask=mask).last_hidden_state
        return states

    expected, transformers_s = timed(lambda: forward(models.theirs))
    _, padded_s = timed(lambda: forward(models.ours))
    packed, packed_s = timed(lambda: encode_packed(models.ours, pack(batch)))
    served, served_s = timed(lambda: encode_packed(models.served, pack(batch)))
    difference = max(
        (states[i] - expected[i, : len(row)]).abs().max().item()
        for states in (packed, served)
        for i, row in enumerate(batch)
    )
    if difference > TOLERANCE:
        raise SystemExit(f"the packed states differ from transformers' by {difference:.1e}")
    timing.difference = max(timing.difference, difference)
    timing.transformers.append(transformers_s)
    timing.padded.append(padded_s)
    timing.packed.append(packed_s)
    timing.served.append(served_s)
    timing.tokens.append(sum(map(len, batch)))
    timing.positions.append(expected.shape[0] * expected.shape[1])


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """The result and the CPU seconds of a call."""
    started = time.process_time()
    result = call()
    return result, time.process_time() - started


def rate(timing: Timing, seconds: Sequence[float]) -> float:
    return sum(timing.tokens) / sum(seconds)


def linear_flops(width: int, tokens: int) -> float:
    """Floating-point operations per CPU second of the widest linear layer on as many tokens as a batch has."""
    x, layer = torch.randn(tokens, width), PrepackedLinear(torch.nn.Linear(width, 4 * width))
    best = min(timed(lambda: layer(x))[1] for _ in range(5))
    return 2 * tokens * width * 4 * width / best


if __name__ == "__main__":
    sys.exit(main())
