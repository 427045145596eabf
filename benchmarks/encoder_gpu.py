"""Encoding on a GPU against its peak: tokens/s of the encoder engine in bfloat16.

    python -m benchmarks.encoder_gpu [--size M] [--tokens 2000000] [--json FILE]

Sentence vectors of texts that are all of one length, and of texts as long as real sentences are: the lengths of
`benchmarks.encoder`. The peak is the speed of a large bfloat16 product measured in the same run; what counts is the
arithmetic of the layers' weights alone. Without a CUDA device it says so and measures nothing.
"""

from __future__ import annotations

import math
import random
import sys
import time

import torch
from xlmstream_worker.encoder import EncoderEngine
from xlmstream_worker.encoder_inputs import EncoderInput, EncoderRequest, Pooling, Vectors

from benchmarks.decode_models import SIZES, build
from benchmarks.gpu import add_device, device_of, name_of, product_flops
from benchmarks.report import Table, finish, parser

TARGET = 0.5
MEDIAN_LENGTH, LENGTH_SIGMA, SHORTEST, LONGEST = 14.4, 0.683, 4, 256


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--size", choices=SIZES, default="M")
    options.add_argument("--tokens", type=int, default=2_000_000, help="how many to encode, in whole texts")
    add_device(options)
    arguments = options.parse_args()
    device = device_of(arguments)
    if device is None:
        return 0
    table = Table(
        f"Encoding on {name_of(device)}, {arguments.size}, bfloat16",
        ("texts", "tokens/s", "batch, ms", "share of peak", "target"),
    )
    flops = product_flops(device)
    shape = SIZES[arguments.size]
    per_token = 2 * 12 * shape.layers * shape.width**2
    model = build(arguments.size, "masked").to(device, torch.bfloat16)
    for name, lengths in (("of 128 tokens", one_length), ("as real ones", real_lengths)):
        tokens_per_s, batch_s = measure(model, lengths(arguments.tokens), shape.vocabulary)
        share = tokens_per_s * per_token / flops
        table.rows.append((name, f"{tokens_per_s:.0f}", f"{1e3 * batch_s:.2f}", f"{share:.2f}", f">= {TARGET}"))
    table.notes.append(f"Measured in this run: product {flops / 1e12:.0f} TFLOP/s.")
    finish([table], arguments.json)
    return 0


def one_length(tokens: int) -> list[int]:
    return [128] * max(tokens // 128, 1)


def real_lengths(tokens: int) -> list[int]:
    generator, lengths, left = random.Random(0), list[int](), tokens
    while left > 0:
        drawn = generator.lognormvariate(math.log(MEDIAN_LENGTH), LENGTH_SIGMA)
        lengths.append(min(max(round(drawn), SHORTEST), LONGEST))
        left -= lengths[-1]
    return lengths


def measure(model: torch.nn.Module, lengths: list[int], vocabulary: int) -> tuple[float, float]:
    """Tokens per second, and seconds of a batch, from the second pass over the texts."""
    engine = EncoderEngine(model)
    generator, reading = random.Random(1), Vectors(Pooling.MEAN)
    texts = tuple(EncoderInput(tuple(generator.randrange(14, vocabulary) for _ in range(n)), reading) for n in lengths)
    for number in range(2):
        engine.add(EncoderRequest(str(number), texts))
        began, batches = time.perf_counter(), 0
        while not engine.idle:
            assert all(output.failure is None for output in engine.step().outputs)
            batches += 1
        took_s = time.perf_counter() - began
    return sum(lengths) / took_s, took_s / batches


if __name__ == "__main__":
    sys.exit(main())
