"""Decoding: our engine against `generate` of transformers at equal ids, and against the memory bandwidth of this
machine.

    python -m benchmarks.decode [--sizes S M] [--new 64 256] [--repeats N] [--transformers5 PYTHON] [--json FILE]

One thread, float32, random weights. `generate` of every version resends the whole sequence and reads the scores at a
mask token it appends; our MASK_APPEND mode gives the same ids from a cache, NEXT_TOKEN is how causal checkpoints were
trained. The sides take turns, the ids of every run are compared before its time counts, and CPU seconds are what is
compared: other work on the machine does not count. `--transformers5` names the interpreter of an environment with
transformers 5.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch reads it

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from xlmstream_worker import decoder as engine_module
from xlmstream_worker.decoder import DecoderEngine
from xlmstream_worker.sequences import DecodingMode, EngineConfig, SamplingParameters, SequenceRequest
from xlmstream_worker.xlm import XLMWithLMHeadModel

from benchmarks.decode_models import SIZES, build
from benchmarks.report import Spread, Table, finish, parser

PROMPT_TOKENS = 16
BATCHES = (1, 8, 32)
# Below this difference of the two best scores float32 rounding may decide.
MARGIN = 1e-4
SAMPLING = {
    "greedy": SamplingParameters(),
    "temperature 1": SamplingParameters(temperature=1.0),
    "top-k 50": SamplingParameters(temperature=1.0, top_k=50),
    "top-p 0.9, peaked": SamplingParameters(temperature=0.1, top_p=0.9),
    "top-p 0.9, flat": SamplingParameters(temperature=1.0, top_p=0.9),
    "all penalties": SamplingParameters(
        repetition_penalty=1.2, presence_penalty=0.1, frequency_penalty=0.1, no_repeat_ngram_size=3, bad_words=((9, 8),)
    ),
}


@dataclass
class Clock:
    """CPU seconds spent inside wrapped functions, by name."""

    spent: dict[str, float] = field(default_factory=dict)

    def wrap(self, name: str, owner: object, attribute: str) -> None:
        inner: Callable[..., object] = getattr(owner, attribute)

        def timed(*arguments: object, **keywords: object) -> object:
            began = time.process_time()
            result = inner(*arguments, **keywords)
            self.spent[name] = self.spent.get(name, 0.0) + time.process_time() - began
            return result

        setattr(owner, attribute, timed)


class Peer:
    """transformers in a process of its own."""

    def __init__(self, python: str, size: str) -> None:
        command = [python, "-m", "benchmarks.decode_models", size]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def generate(self, prompts: Sequence[Sequence[int]], new: int) -> dict[str, object]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"prompts": prompts, "new": new}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, object] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    options.add_argument("--new", nargs="+", type=int, default=[64, 256], help="new tokens per prompt")
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--transformers5", metavar="PYTHON", help="interpreter of an environment with transformers 5")
    options.add_argument(
        "--full", action="store_true", help="long outputs of M too: transformers takes minutes for each"
    )
    options.add_argument("--skip-transformers", action="store_true", help="measure only our own engine")
    arguments = options.parse_args()
    torch.set_num_threads(1)
    tables = []
    if not arguments.skip_transformers:
        tables.append(against_transformers(arguments))
    tables.append(by_batch(arguments))
    tables.append(sampling_share(arguments))
    finish(tables, arguments.json)
    return 0


def prompts_of(count: int, vocabulary: int, *, ragged: bool = False) -> list[tuple[int, ...]]:
    generator = random.Random(count)
    lengths = [generator.randint(2, 2 * PROMPT_TOKENS - 2) if ragged else PROMPT_TOKENS for _ in range(count)]
    return [tuple(generator.randrange(14, vocabulary) for _ in range(length)) for length in lengths]


def decode(
    engine: DecoderEngine,
    prompts: Sequence[tuple[int, ...]],
    new: int,
    mode: DecodingMode,
    sampling: SamplingParameters,
) -> tuple[list[list[int]], float, int]:
    """Ids per prompt, CPU seconds, steps."""
    ids: dict[str, list[int]] = {}
    began, steps = time.process_time(), 0
    for number, prompt in enumerate(prompts):
        engine.add(SequenceRequest(str(number), prompt, 0, mode, max_new_tokens=new, sampling=sampling))
    while not engine.idle:
        steps += 1
        for output in engine.step().tokens:
            if output.token_id is not None:
                ids.setdefault(output.key, []).append(output.token_id)
    return [ids[str(number)] for number in range(len(prompts))], time.process_time() - began, steps


def against_transformers(arguments: argparse.Namespace) -> Table:
    table = Table(
        f"Decoding against transformers, prompt {PROMPT_TOKENS}: CPU seconds, median (range) of {arguments.repeats}",
        ("size", "batch", "new", "transformers 4", "transformers 5", "ours, MASK_APPEND", "ours, NEXT_TOKEN",
         "speed-up, 4 / 5", "NEXT_TOKEN, 4", "ids"),
    )  # fmt: skip
    for size in arguments.sizes:
        model = build(size)
        pythons = [sys.executable, *([arguments.transformers5] if arguments.transformers5 else [])]
        peers = [Peer(python, size) for python in pythons]
        for new in arguments.new if size == "S" or arguments.full else [min(arguments.new)]:
            for batch in (1, 8) if size == "S" and new == min(arguments.new) else (1,):
                table.rows.append(compare(size, model, peers, batch, new, arguments.repeats))
        for peer in peers:
            peer.close()
    table.notes.append(
        f"Ids are compared run by run; where they part, the scores must be within {MARGIN:g} of each other there. "
        "NEXT_TOKEN feeds no mask and so gives other ids than `generate`."
    )
    return table


def compare(
    size: str, model: XLMWithLMHeadModel, peers: Sequence[Peer], batch: int, new: int, repeats: int
) -> Sequence[str]:
    prompts = prompts_of(batch, SIZES[size].vocabulary)
    engine = DecoderEngine(model, EngineConfig(max_slots=batch, prefix_cache_bytes=0))
    modes = (DecodingMode.MASK_APPEND, DecodingMode.NEXT_TOKEN)
    for mode in modes:
        decode(engine, prompts, 4, mode, SamplingParameters())
    for peer in peers:
        peer.generate(prompts, 2)
    theirs: list[list[float]] = [[] for _ in peers]
    ours: dict[DecodingMode, list[float]] = {mode: [] for mode in modes}
    agreement = "equal"
    for _ in range(repeats):
        answers = [peer.generate(prompts, new) for peer in peers]
        for seconds, answer in zip(theirs, answers, strict=True):
            seconds.append(float(str(answer["cpu_s"])))
        for mode in modes:
            ids, cpu_s, _ = decode(engine, prompts, new, mode, SamplingParameters())
            ours[mode].append(cpu_s)
            if mode is DecodingMode.MASK_APPEND:
                for answer in answers:
                    agreement = agree(model, prompts, ids, answer["ids"], agreement)
    exact, plain = statistics.median(ours[modes[0]]), statistics.median(ours[modes[1]])
    ratios = " / ".join(f"{statistics.median(seconds) / exact:.1f}x" for seconds in theirs)
    return (
        size, str(batch), str(new),
        *(f"{Spread.of(seconds):.2f}" for seconds in theirs), *(["-"] if len(peers) == 1 else []),
        *(f"{Spread.of(ours[mode]):.2f}" for mode in modes),
        ratios, f"{statistics.median(theirs[0]) / plain:.1f}x", agreement,
    )  # fmt: skip


def agree(
    model: XLMWithLMHeadModel,
    prompts: Sequence[tuple[int, ...]],
    ours: Sequence[Sequence[int]],
    theirs: object,
    so_far: str,
) -> str:
    """Raises SystemExit where ids differ though the scores are clear."""
    assert isinstance(theirs, list)
    for prompt, a, b in zip(prompts, ours, theirs, strict=True):
        if list(a) == list(b):
            continue
        place = next(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
        ids = torch.tensor([[*prompt, *a[:place], model.config.mask_token_id]])
        with torch.inference_mode():
            scores = model(ids, langs=torch.zeros_like(ids), return_dict=True).logits[0, -1]
        margin = abs(float(scores[a[place]] - scores[b[place]]))
        if margin > MARGIN:
            raise SystemExit(f"ids differ at token {place} by a margin of {margin:.2g}")
        so_far = f"equal up to token {place}, margin {margin:.1e}"
    return so_far


def by_batch(arguments: argparse.Namespace) -> Table:
    table = Table(
        "Our engine by batch size, NEXT_TOKEN, greedy",
        ("size", "batch", "tokens / CPU s", "x batch 1", "ragged prompts", "step, ms", "of bandwidth ceiling",
         "slots' share", "sampling's share"),
    )  # fmt: skip
    for size in arguments.sizes:
        model = build(size)
        new = 64 if size == "S" else 24
        first = 0.0
        ceiling_s = weights_read_s(model)
        for batch in BATCHES:
            engine = DecoderEngine(model, EngineConfig(max_slots=batch, prefix_cache_bytes=0))
            clock = Clock()
            clock.wrap("slots", engine._cache, "write")
            clock.wrap("slots", engine._cache, "append")
            clock.wrap("prefill", engine._forward, "prefill")
            with patched_choice(clock):
                equal, _ = repeated(engine, clock, prompts_of(batch, SIZES[size].vocabulary), new, arguments.repeats)
                ragged, _ = repeated(
                    engine, clock, prompts_of(batch, SIZES[size].vocabulary, ragged=True), new, arguments.repeats
                )
                clock.spent.clear()
                _, cpu_s, steps = decode(
                    engine,
                    prompts_of(batch, SIZES[size].vocabulary),
                    new,
                    DecodingMode.NEXT_TOKEN,
                    SamplingParameters(),
                )
            cpu_s -= clock.spent.get("prefill", 0.0)
            first = first or equal
            table.rows.append((
                size, str(batch), f"{equal:.0f}", f"{equal / first:.1f}x", f"{ragged / equal:.2f} of equal",
                f"{1000 * cpu_s / steps:.2f}", f"{ceiling_s * steps / cpu_s:.2f}" if batch == 1 else "-",
                f"{clock.spent['slots'] / cpu_s:.1%}", f"{clock.spent['choose'] / cpu_s:.1%}",
            ))  # fmt: skip
    table.notes.append(
        "The prompt's computation is not counted. The ceiling is the time to read all weights once, measured by "
        "summing as many bytes in the same run."
    )
    return table


def repeated(
    engine: DecoderEngine, clock: Clock, prompts: Sequence[tuple[int, ...]], new: int, repeats: int
) -> tuple[float, int]:
    """Tokens per CPU second without the prompts', median."""
    rates, steps = [], 0
    for _ in range(repeats):
        clock.spent.clear()
        _, cpu_s, steps = decode(engine, prompts, new, DecodingMode.NEXT_TOKEN, SamplingParameters())
        rates.append(len(prompts) * new / (cpu_s - clock.spent.get("prefill", 0.0)))
    return statistics.median(rates), steps


def sampling_share(arguments: argparse.Namespace) -> Table:
    table = Table(
        "Choosing tokens, share of a step at batch 32 (CPU time)",
        ("size", *SAMPLING),
    )
    for size in arguments.sizes:
        model = build(size)
        cells = []
        for sampling in SAMPLING.values():
            engine = DecoderEngine(model, EngineConfig(max_slots=32, prefix_cache_bytes=0))
            clock = Clock()
            clock.wrap("prefill", engine._forward, "prefill")
            with patched_choice(clock):
                prompts = prompts_of(32, SIZES[size].vocabulary)
                _, cpu_s, _ = decode(engine, prompts, 24 if size == "S" else 8, DecodingMode.NEXT_TOKEN, sampling)
            cells.append(f"{clock.spent['choose'] / (cpu_s - clock.spent.get('prefill', 0.0)):.1%}")
        table.rows.append((size, *cells))
    table.notes.append(
        "Random weights are flat: top-p 0.9 then holds thousands of tokens; a trained model is nearer 'peaked'."
    )
    return table


class patched_choice:  # noqa: N801 - used as a context manager
    """Time the engine's choosing of tokens while inside."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def __enter__(self) -> None:
        self._original = engine_module.choose
        self._clock.wrap("choose", engine_module, "choose")

    def __exit__(self, *_: object) -> None:
        engine_module.choose = self._original  # type: ignore[attr-defined]


def weights_read_s(model: XLMWithLMHeadModel) -> float:
    """CPU seconds to read the weights that one decode step reads."""
    layers = sum(p.numel() for block in model.transformer.blocks() for module in block for p in module.parameters())
    count = layers + model.transformer.embeddings.weight.numel()
    memory = torch.ones(count)
    times = []
    for _ in range(7):
        began = time.process_time()
        memory.sum()
        times.append(time.process_time() - began)
    return min(times)


if __name__ == "__main__":
    sys.exit(main())
