"""Decoding: our engine against `generate` of transformers at equal ids, and against the memory bandwidth of this
machine.

    python -m benchmarks.decode [--sizes S M] [--batches 1 8 32] [--new 64 256] [--repeats N]
                                [--transformers5 PYTHON] [--long skip|sample|full] [--json FILE]

One thread, float32, random weights. `generate` of every version resends the whole sequence and reads the scores at a
mask token it appends; our MASK_APPEND mode gives the same ids, from a cache where the model is causal. NEXT_TOKEN is
how causal checkpoints were trained. The sides take turns, the ids of every run are compared before its time counts,
and CPU seconds are what is compared: other work on the machine counts less. `--transformers5` names the interpreter of
an environment with transformers 5; `--long` says what to do where transformers takes minutes to hours.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch reads it

import argparse
import statistics
import sys
import time

import torch
from xlmstream_worker.decoder import DecoderEngine
from xlmstream_worker.sequences import DecodingMode, EngineConfig, SamplingParameters
from xlmstream_worker.xlm import XLMWithLMHeadModel

from benchmarks.decode_compare import EVERY, against_transformers
from benchmarks.decode_models import SIZES, TRAINED_ENTROPY, build, multiply_scores, spread_as_trained
from benchmarks.decode_run import Clock, clocked, decode, prompts_of, step_s
from benchmarks.report import Spread, Table, finish, parser

BATCHES = (1, 8, 32)
# What transformers takes longer for is subject to --long.
SHORT_S = 40.0
PLAIN = SamplingParameters(temperature=1.0)
# What rows may ask for, and what else their requests say.
SAMPLING: dict[str, tuple[SamplingParameters, int | None]] = {
    "greedy": (SamplingParameters(), None),
    "temperature 1": (PLAIN, None),
    "temperature 0.1": (SamplingParameters(temperature=0.1), None),
    "top-k 50": (SamplingParameters(temperature=1.0, top_k=50), None),
    "top-p 0.9, peaked": (SamplingParameters(temperature=0.1, top_p=0.9), None),
    "top-p 0.9, flat": (SamplingParameters(temperature=1.0, top_p=0.9), None),
    "min-p 0.05": (SamplingParameters(temperature=1.0, min_p=0.05), None),
    "typical-p 0.9": (SamplingParameters(temperature=1.0, typical_p=0.9), None),
    "top-p and typical-p": (SamplingParameters(temperature=1.0, top_p=0.9, typical_p=0.9), None),
    "repetition penalty": (SamplingParameters(repetition_penalty=1.2), None),
    "presence, frequency": (SamplingParameters(presence_penalty=0.1, frequency_penalty=0.1), None),
    "no repeated 3-grams": (SamplingParameters(no_repeat_ngram_size=3), None),
    "bad words": (SamplingParameters(bad_words=((9, 8), (7,))), None),
    "logit bias": (SamplingParameters(logit_bias=((9, 1.0), (8, -2.0))), None),
    "all penalties": (
        SamplingParameters(
            repetition_penalty=1.2,
            presence_penalty=0.1,
            frequency_penalty=0.1,
            no_repeat_ngram_size=3,
            bad_words=((9, 8), (7,)),
            logit_bias=((9, 1.0), (8, -2.0)),
        ),
        None,
    ),
    "top logprobs 5": (SamplingParameters(), 5),
}
# What scores with the spread of a trained model's make a difference to.
SPREAD = ("temperature 1", "top-k 50", "top-p 0.9, flat", "min-p 0.05", "typical-p 0.9", "top-p and typical-p")


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    options.add_argument("--batches", nargs="+", type=int, default=list(BATCHES))
    options.add_argument("--new", nargs="+", type=int, default=[64, 256], help="new tokens per prompt")
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument(
        "--transformers5",
        metavar="PYTHON",
        default=os.environ.get("TRANSFORMERS5_PYTHON"),
        help="interpreter of an environment with transformers 5 (default: $TRANSFORMERS5_PYTHON)",
    )
    options.add_argument(
        "--long",
        choices=("skip", "sample", "full"),
        default="skip",
        help=f"where transformers takes more than {SHORT_S:.0f} s: leave it out, run every {EVERY}th step, or all",
    )
    options.add_argument("--skip-transformers", action="store_true", help="measure only our own engine")
    options.add_argument("--skip-ours", action="store_true", help="measure only against transformers")
    arguments = options.parse_args()
    torch.set_num_threads(1)
    tables = []
    if not arguments.skip_transformers:
        pythons = [sys.executable, *([arguments.transformers5] if arguments.transformers5 else [])]
        shape = (arguments.sizes, arguments.batches, arguments.new, arguments.repeats, SHORT_S, arguments.long)
        tables += [against_transformers(kind, pythons, *shape) for kind in ("causal", "masked")]
    if not arguments.skip_ours:
        tables += [by_batch(arguments), masked_by_length(arguments), sampling_share(arguments)]
    tables.append(load())
    finish(tables, arguments.json)
    return 0


def by_batch(arguments: argparse.Namespace) -> Table:
    table = Table(
        "Our engine by batch size, NEXT_TOKEN, greedy",
        ("size", "batch", "tokens / CPU s", "x batch 1", "tokens / s", "ragged prompts", "step, CPU ms",
         "of bandwidth ceiling", "slots' share", "joining's share", "choosing's share"),
    )  # fmt: skip
    for size in arguments.sizes:
        model = build(size)
        new = 64 if size == "S" else 24
        first = 0.0
        for batch in arguments.batches:
            engine = DecoderEngine(model, EngineConfig(max_slots=batch, prefix_cache_bytes=0))
            equal, ragged, walls, steps_s, shares = [], [], [], [], []
            with clocked(engine) as clock:
                decode(engine, prompts_of(batch, SIZES[size].vocabulary), new, DecodingMode.NEXT_TOKEN)
                for _ in range(arguments.repeats):
                    cpu_s, wall_s, steps = run(engine, clock, batch, SIZES[size].vocabulary, new)
                    equal.append(batch * new / cpu_s)
                    walls.append(batch * new / wall_s)
                    steps_s.append(cpu_s / steps)
                    shares.append([clock.spent[part] / cpu_s for part in ("slots", "joining", "choose")])
                    cpu_s, _, _ = run(engine, clock, batch, SIZES[size].vocabulary, new, ragged=True)
                    ragged.append(batch * new / cpu_s)
            rate = statistics.median(equal)
            first = first or rate
            ceiling = f"{weights_read_s(model) / statistics.median(steps_s):.2f}" if batch == 1 else "-"
            table.rows.append((
                size, str(batch), f"{Spread.of(equal):.0f}", f"{rate / first:.1f}x", f"{statistics.median(walls):.0f}",
                f"{statistics.median(ragged) / rate:.2f} of equal", f"{1000 * statistics.median(steps_s):.2f}",
                ceiling, *(f"{statistics.median(part):.1%}" for part in zip(*shares, strict=True)),
            ))  # fmt: skip
    table.notes.append(
        "The prompts' computation is not counted. Slots: storing keys, values and tokens at each step; joining: "
        "copying a prompt's to where its row decodes, once a row. The ceiling is the time to read all weights once, "
        "measured by summing as many bytes in the same run."
    )
    return table


def masked_by_length(arguments: argparse.Namespace) -> Table:
    table = Table(
        "Our engine on a masked model, MASK_APPEND, greedy, 16 new tokens",
        ("size", "batch", "positions / CPU s, equal lengths", "ragged", "padding that is not computed"),
    )
    for size in arguments.sizes:
        model = build(size, "masked")
        for batch in arguments.batches:
            engine = DecoderEngine(model, EngineConfig(max_slots=batch))
            cells = []
            for ragged in (False, True):
                prompts = prompts_of(batch, SIZES[size].vocabulary, ragged=ragged)
                positions = sum((len(prompt) + 1) * 16 + 16 * 15 // 2 for prompt in prompts)
                rates = []
                for _ in range(arguments.repeats):
                    _, took, _ = decode(engine, prompts, 16, DecodingMode.MASK_APPEND)
                    rates.append(positions / took.cpu_s)
                cells.append(f"{Spread.of(rates):.0f}")
                longest = max(map(len, prompts))
                padded = batch * ((longest + 1) * 16 + 16 * 15 // 2)
            table.rows.append((size, str(batch), *cells, f"{1 - positions / padded:.0%}"))
    return table


def run(
    engine: DecoderEngine, clock: Clock, batch: int, vocabulary: int, new: int, *, ragged: bool = False
) -> tuple[float, float, int]:
    """CPU and wall seconds without the prompts', and steps, of one run."""
    clock.spent.clear()
    _, took, steps = decode(engine, prompts_of(batch, vocabulary, ragged=ragged), new, DecodingMode.NEXT_TOKEN)
    prefill = clock.spent.get("prefill", 0.0)
    return took.cpu_s - prefill, took.wall_s - prefill, steps


def sampling_share(arguments: argparse.Namespace) -> Table:
    table = Table(
        "Choosing tokens, share of a step at batch 32 and milliseconds (CPU time)", ("parameters", *arguments.sizes)
    )
    columns = [sampling_column(size, arguments.repeats) for size in arguments.sizes]
    for name in columns[0]:
        table.rows.append((name, *(column[name] for column in columns)))
    floors = ", ".join(f"{size}: {1000 * read_scores_s(SIZES[size].vocabulary):.2f} ms" for size in arguments.sizes)
    table.notes.append(f"To read 32 rows of scores once, by a sum of what is not in a cache, takes, at {floors}.")
    table.notes.append(
        "Random weights are flat: top-p 0.9 then holds thousands of tokens. 'As trained': scores multiplied so that "
        f"the next-token distributions have {TRAINED_ENTROPY} nats, as those of xlm-clm-demo on text of its own."
    )
    return table


def sampling_column(size: str, repeats: int) -> dict[str, str]:
    """For each of SAMPLING in turn, and SPREAD, the best of `repeats` rounds: other work on the machine only adds."""
    model = build(size)
    engine = DecoderEngine(model, EngineConfig(max_slots=32, prefix_cache_bytes=0))
    prompts = prompts_of(32, SIZES[size].vocabulary)
    factor = spread_as_trained(model, prompts)
    best: dict[str, tuple[float, float]] = {}

    def measure(label: str, name: str) -> None:
        sampling, top_logprobs = SAMPLING[name]
        steps = 24 if size == "S" else 12
        whole_s = step_s(engine, prompts, steps, clock, sampling, top_logprobs)
        chosen_s = clock.spent["choose"] / steps
        rest_s = whole_s - chosen_s
        known = best.get(label, (chosen_s, rest_s))
        best[label] = (min(chosen_s, known[0]), min(rest_s, known[1]))

    with clocked(engine) as clock:
        for _ in range(repeats):
            for name in SAMPLING:
                measure(name, name)
            multiply_scores(model, factor)
            for name in SPREAD:
                measure(f"as trained: {name.removesuffix(', flat')}", name)
            multiply_scores(model, 1 / factor)
    rest = min(rest_s for _, rest_s in best.values())
    return {label: f"{chosen / (chosen + rest):.1%} ({1000 * chosen:.2f} ms)" for label, (chosen, _) in best.items()}


def weights_read_s(model: XLMWithLMHeadModel) -> float:
    """CPU seconds to read the weights that one decode step reads."""
    layers = sum(p.numel() for block in model.transformer.blocks() for module in block for p in module.parameters())
    return _read_s(layers + model.transformer.embeddings.weight.numel())


def read_scores_s(vocabulary: int) -> float:
    """CPU seconds to read 32 rows of scores from memory."""
    return min(_read_s(32 * vocabulary, flush=True) for _ in range(3))


def _read_s(count: int, *, flush: bool = False) -> float:
    memory = torch.ones(count)
    other = torch.ones(2**25 if flush else 1)
    times = []
    for _ in range(7):
        other.add_(1)
        began = time.process_time()
        memory.sum()
        times.append(time.process_time() - began)
    return min(times)


def load() -> Table:
    table = Table("Load of the machine at the end", ("1 min", "5 min", "15 min"))
    table.rows.append(tuple(f"{value:.1f}" for value in os.getloadavg()))
    return table


if __name__ == "__main__":
    sys.exit(main())
