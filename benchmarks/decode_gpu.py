"""Decoding on a GPU against its roofline: tokens/s of NEXT_TOKEN greedy decoding in bfloat16 by batch size.

    python -m benchmarks.decode_gpu [--batches 1 64 512] [--new 256] [--json FILE]

The roofline of a step is the time to read all weights and the keys and values of all rows once at the bandwidth of a
device copy measured in the same run, or to do the arithmetic at the speed of a large bfloat16 product, whichever is
longer. Without a CUDA device it says so and measures nothing.
"""

from __future__ import annotations

import sys
import time

import torch
from xlmstream_worker.decoder import DecoderEngine
from xlmstream_worker.sequences import EngineConfig, SequenceRequest

from benchmarks.decode_models import SIZES, build
from benchmarks.decode_run import prompts_of
from benchmarks.report import Table, finish, parser

TARGETS = {1: 0.35, 64: 0.5, 512: 0.5}


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--size", choices=SIZES, default="M")
    options.add_argument("--batches", nargs="+", type=int, default=list(TARGETS))
    options.add_argument("--new", type=int, default=256)
    arguments = options.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device: nothing measured")
        return 0
    table = Table(
        f"Decoding on {torch.cuda.get_device_name()}, {arguments.size}, bfloat16, {arguments.new} new tokens",
        ("batch", "tokens/s", "step, us", "roofline, us", "share", "target"),
    )
    bandwidth, flops = copy_bandwidth(), product_flops()
    for batch in arguments.batches:
        step_s, tokens_per_s = measure(arguments.size, batch, arguments.new)
        ceiling_s = roofline_s(arguments.size, batch, 16 + arguments.new // 2, bandwidth, flops)
        table.rows.append((
            str(batch), f"{tokens_per_s:.0f}", f"{1e6 * step_s:.0f}", f"{1e6 * ceiling_s:.0f}",
            f"{ceiling_s / step_s:.2f}", f">= {TARGETS.get(batch, 0.5)}",
        ))  # fmt: skip
    table.notes.append(f"Measured in this run: copy {bandwidth / 1e12:.2f} TB/s, product {flops / 1e12:.0f} TFLOP/s.")
    finish([table], arguments.json)
    return 0


def measure(size: str, batch: int, new: int) -> tuple[float, float]:
    """Seconds of a full decode step, and tokens per second of it, once all prompts are computed."""
    config = EngineConfig(
        max_slots=batch, device="cuda", dtype="bfloat16", prefill_tokens=16 * batch, prefix_cache_bytes=0
    )
    engine = DecoderEngine(build(size), config)
    engine.warm_up()
    for number, prompt in enumerate(prompts_of(batch, SIZES[size].vocabulary)):
        engine.add(SequenceRequest(str(number), prompt, 0, max_new_tokens=new))
    while engine.step().batch_size < batch:
        pass
    steps = new // 2
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(steps):
        engine.step()
    torch.cuda.synchronize()
    step_s = (time.perf_counter() - began) / steps
    while not engine.idle:
        engine.step()
    return step_s, batch / step_s


def roofline_s(size: str, batch: int, context: int, bandwidth: float, flops: float) -> float:
    shape = SIZES[size]
    weights = 12 * shape.layers * shape.width**2 + shape.vocabulary * shape.width
    cached = 2 * shape.layers * context * shape.width * batch
    arithmetic = 2 * batch * weights + 2 * batch * cached / batch
    return max(2 * (weights + cached) / bandwidth, arithmetic / flops)


def copy_bandwidth() -> float:
    """Bytes per second that a copy within the device reads and writes."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / timed(lambda: target.copy_(source))


def product_flops() -> float:
    a = torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda")
    return 2 * 8192**3 / timed(lambda: a @ a)


def timed(run: object) -> float:
    """Seconds of one call, the best of ten."""
    assert callable(run)
    best = float("inf")
    for _ in range(10):
        torch.cuda.synchronize()
        began = time.perf_counter()
        run()
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return best


if __name__ == "__main__":
    sys.exit(main())
