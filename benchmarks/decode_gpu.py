"""Decoding on a GPU against its roofline: tokens/s of NEXT_TOKEN decoding in bfloat16 by batch size.

    python -m benchmarks.decode_gpu [--batches 1 64 512] [--new 400] [--choices greedy ...] [--json FILE]

The roofline of a step is the time to read all weights and the keys and values of all rows once at the bandwidth of a
device copy measured in the same run, or to do the arithmetic at the speed of a large bfloat16 product, whichever is
longer; rows as long as they were on average in the steps measured. "recorded" is the time of the recorded part of such
a step alone, one launch after the other: what a step takes beyond it goes to choosing, appending and the host. Without
a CUDA device it says so and measures nothing.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace

import torch
from xlmstream_worker.decoder import DecoderEngine
from xlmstream_worker.graphs import padded_context, padded_rows
from xlmstream_worker.sequences import DecodingMode, EngineConfig, SequenceRequest
from xlmstream_worker.xlm import XLMWithLMHeadModel

from benchmarks.decode import SAMPLING
from benchmarks.decode_models import SIZES, build
from benchmarks.decode_run import PROMPT_TOKENS, prompts_of
from benchmarks.gpu import add_device, copy_bandwidth, device_of, finish_work, name_of, product_flops, timed
from benchmarks.report import Table, finish, parser

TARGETS = {1: 0.35, 64: 0.5, 512: 0.5}


@dataclass(frozen=True)
class Measured:
    step_s: float
    context: float
    """Tokens of a row, the mean over rows and steps."""
    recorded_s: float
    warm_up_s: float


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--size", choices=SIZES, default="M")
    options.add_argument("--batches", nargs="+", type=int, default=list(TARGETS))
    options.add_argument("--new", type=int, default=400)
    options.add_argument("--choices", nargs="+", choices=SAMPLING, default=["greedy"], help="how tokens are chosen")
    add_device(options)
    arguments = options.parse_args()
    device = device_of(arguments)
    if device is None:
        return 0
    table = Table(
        f"Decoding on {name_of(device)}, {arguments.size}, bfloat16, {arguments.new} new tokens",
        ("batch", "choice", "context", "tokens/s", "step, us", "recorded, us", "roofline, us", "share", "target",
         "warm-up, s"),
    )  # fmt: skip
    model = build(arguments.size)
    bandwidth, flops = copy_bandwidth(device), product_flops(device)
    for batch in arguments.batches:
        for choice in arguments.choices:
            found = measure(model, batch, arguments.new, choice, device)
            ceiling_s = roofline_s(arguments.size, batch, found.context, bandwidth, flops)
            table.rows.append((
                str(batch), choice, f"{found.context:.0f}", f"{batch / found.step_s:.0f}", f"{1e6 * found.step_s:.0f}",
                f"{1e6 * found.recorded_s:.0f}", f"{1e6 * ceiling_s:.0f}", f"{ceiling_s / found.step_s:.2f}",
                f">= {TARGETS.get(batch, 0.5)}", f"{found.warm_up_s:.1f}",
            ))  # fmt: skip
    table.notes.append(f"Measured in this run: copy {bandwidth / 1e12:.2f} TB/s, product {flops / 1e12:.0f} TFLOP/s.")
    finish([table], arguments.json)
    return 0


def measure(model: XLMWithLMHeadModel, batch: int, new: int, choice: str, device: torch.device) -> Measured:
    """Full decode steps, once all prompts are computed and for as long as no row ends.

    Raises ValueError where rows end before the last one begins.
    """
    config = EngineConfig(
        max_slots=batch,
        device=str(device),
        dtype="bfloat16",
        prefill_tokens=PROMPT_TOKENS * batch,
        prefix_cache_bytes=0,
        static_shapes=True,
        late_readback=True,
        rowwise=False,
    )
    engine = DecoderEngine(model, config)
    began = time.perf_counter()
    engine.warm_up()
    finish_work(device)
    warm_up_s = time.perf_counter() - began
    sampling, top_logprobs = SAMPLING[choice]
    for number, prompt in enumerate(prompts_of(batch, model.config.vocab_size)):
        request = SequenceRequest(str(number), prompt, 0, max_new_tokens=new, sampling=sampling)
        engine.add(replace(request, top_logprobs=top_logprobs))
    taken = 1
    while engine.step().batch_size < batch:
        taken += 1
        if taken >= new // 2:
            raise ValueError(f"--new {new} is too little for a batch of {batch}: rows end before the last one begins")
    steps, tokens = new - taken - 2, 0
    finish_work(device)
    began = time.perf_counter()
    for _ in range(steps):
        result = engine.step()
        assert result.batch_size == batch
        tokens += sum(PROMPT_TOKENS + output.index for output in result.tokens)
    finish_work(device)
    step_s = (time.perf_counter() - began) / steps
    while not engine.idle:
        assert all(output.failure is None for output in engine.step().tokens)
    context = tokens / (steps * batch)
    return Measured(step_s, context, recorded_s(engine, batch, round(context), device), warm_up_s)


@torch.inference_mode()
def recorded_s(engine: DecoderEngine, batch: int, context: int, device: torch.device) -> float:
    """Seconds of the recorded part of a step of an idle engine, whose slots it may overwrite."""
    padded = padded_context(context, engine.max_context)
    slots = slice(0, padded_rows(batch))
    return timed(device, lambda: engine._forward._launch(DecodingMode.NEXT_TOKEN, slots, padded, 0), calls=10)


def roofline_s(size: str, batch: int, context: float, bandwidth: float, flops: float) -> float:
    """Seconds of a step of `batch` rows of `context` tokens each."""
    shape = SIZES[size]
    cached = 2 * shape.layers * context * shape.width * batch
    arithmetic = 2 * batch * shape.weights + 2 * cached
    return max(2 * (shape.weights + cached) / bandwidth, arithmetic / flops)


if __name__ == "__main__":
    sys.exit(main())
