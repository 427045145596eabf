"""Our engine beside `generate` of transformers: the same prompts, taking turns, ids compared before a time counts.

`generate` of an XLM resends everything at each step, so that what a step takes depends on nothing but its length. Where
all steps together would take too long, every `EVERY`th is run, one call of `generate` for one token after the tokens
that our engine chose, and stands for those around it. Wherever all were run these are run too, to see how far the
two agree. Of a masked model our engine recomputes everything too: where that takes a quarter of an hour, its steps are
sampled as well, after random tokens.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from xlmstream_worker.decoder import DecoderEngine
from xlmstream_worker.sequences import DecodingMode, EngineConfig
from xlmstream_worker.xlm import XLMWithLMHeadModel

from benchmarks.decode_models import SIZES, build
from benchmarks.decode_run import PROMPT_TOKENS, Took, decode, prompts_of
from benchmarks.report import Spread, Table

# Below this difference of the two best scores float32 rounding may decide.
MARGIN = 1e-4
# Of so many steps of transformers the middle one is run, where it is not all of them.
EVERY = 16
# Where transformers takes longer than this with a masked model, our engine takes a quarter of an hour.
_HOUR_S = 3000.0
# Multiplications that transformers does in a second on one core, roughly: to leave out what takes too long.
_RATE = 3e10


class Peer:
    """transformers in a process of its own."""

    def __init__(self, python: str, size: str, kind: str) -> None:
        command = [python, "-m", "benchmarks.decode_models", size, kind]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.version = ""

    def generate(self, prompts: Sequence[Sequence[int]], new: int) -> tuple[list[list[int]], Took]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"prompts": prompts, "new": new}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        self.version = answer["version"]
        return answer["ids"], Took(answer["cpu_s"], answer["wall_s"])

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


@dataclass
class Times:
    """What one side took, run by run."""

    runs: list[Took] = field(default_factory=list)

    @property
    def cpu(self) -> Spread:
        return Spread.of([took.cpu_s for took in self.runs])

    def __str__(self) -> str:
        cpu = f"{self.cpu:.2f}" if len(self.runs) > 1 else f"{self.runs[0].cpu_s:.2f}"
        return f"{cpu}, {Spread.of([took.wall_s for took in self.runs]).median:.2f}"


def against_transformers(
    kind: str,
    pythons: Sequence[str],
    sizes: Sequence[str],
    batches: Sequence[int],
    news: Sequence[int],
    repeats: int,
    short_s: float,
    long: str,
) -> Table:
    """`long`: whether to "skip", "sample" or run in "full" what transformers would take longer than `short_s` seconds
    for."""
    modes = (DecodingMode.MASK_APPEND, DecodingMode.NEXT_TOKEN)[: 2 if kind == "causal" else 1]
    table = Table("", ())
    versions = ["-"] * len(pythons)
    left_out = []
    for size in sizes:
        model = build(size, kind)
        peers = [Peer(python, size, kind) for python in pythons]
        for batch in batches:
            for new in news:
                expected_s = batch * new * (PROMPT_TOKENS + new / 2) * SIZES[size].weights / _RATE
                if expected_s > short_s and long == "skip":
                    left_out.append(f"{size}, batch {batch}, {new} tokens")
                    continue
                full, count = expected_s <= short_s or long == "full", repeats if expected_s < 60 else 1
                if kind == "masked" and not full and expected_s > _HOUR_S:
                    cells = _compare_steps(model, peers, batch, new)
                else:
                    cells = _compare(model, peers, modes, batch, new, count, full=full)
                table.rows.append((size, str(batch), str(new), *cells))
                print("  ".join(table.rows[-1]), file=sys.stderr, flush=True)
        versions = [peer.version or "-" for peer in peers]
        for peer in peers:
            peer.close()
    table.title = (
        f"Decoding with a {kind} model against transformers, prompt {PROMPT_TOKENS}: "
        f"CPU seconds, median (range) of up to {repeats}, and wall seconds"
    )
    names = [f"transformers {version}" for version in versions]
    table.columns = (
        "size", "batch", "new", *names, *(f"ours, {mode.name}" for mode in modes),
        *(f"{mode.name}: speed-up" for mode in modes), f"every {EVERY}th / all steps", "ids",
    )  # fmt: skip
    table.notes.append(
        "Ids of every run are compared with MASK_APPEND's before its time counts; where they part, the scores must be "
        f"within {MARGIN:g} of each other. Speed-ups are ratios of CPU time, against each version in turn."
        + (" NEXT_TOKEN feeds no mask and so gives other ids than `generate`." if len(modes) == 2 else "")
    )
    table.notes.append(
        f"~: every {EVERY}th step was run, each counted {EVERY} times, and the ids of these are "
        f"compared. 'Every {EVERY}th / all steps' says what this way of measuring gives where all steps were run, as a "
        "share of the CPU time of all."
    )
    if left_out:
        table.notes.append(f"Left out, as transformers takes minutes to hours (`--long`): {'; '.join(left_out)}.")
    return table


def _compare(
    model: XLMWithLMHeadModel,
    peers: Sequence[Peer],
    modes: Sequence[DecodingMode],
    batch: int,
    new: int,
    repeats: int,
    *,
    full: bool,
) -> Sequence[str]:
    prompts = prompts_of(batch, model.config.vocab_size)
    engine = DecoderEngine(model, EngineConfig(max_slots=batch, prefix_cache_bytes=0))
    for mode in modes:
        decode(engine, prompts, 4, mode)
    for peer in peers:
        peer.generate(prompts, 2)
    whole, sampled = [Times() for _ in peers], [Times() for _ in peers]
    ours = [Times() for _ in modes]
    agreement = "equal"
    for _ in range(repeats):
        chosen: list[list[int]] = []
        for mode, times in zip(modes, ours, strict=True):
            ids, took, _ = decode(engine, prompts, new, mode)
            times.runs.append(took)
            chosen = ids if mode is DecodingMode.MASK_APPEND else chosen
        for peer, all_steps, some_steps in zip(peers, whole, sampled, strict=True):
            if full:
                ids, took = peer.generate(prompts, new)
                all_steps.runs.append(took)
                agreement = _agree(model, prompts, chosen, ids, agreement)
            steps = []
            for place in _places(new):
                before = [(*prompt, *ids[:place]) for prompt, ids in zip(prompts, chosen, strict=True)]
                next_ids, took = peer.generate(before, 1)
                steps.append(took)
                agreement = _agree(model, before, [ids[place : place + 1] for ids in chosen], next_ids, agreement)
            some_steps.runs.append(_all_of(steps, new))
    theirs = whole if full else sampled
    ratios = (" / ".join(f"{one.cpu.median / mine.cpu.median:.1f}x" for one in theirs) for mine in ours)
    method = [f"{some.cpu.median / one.cpu.median:.2f}" for some, one in zip(sampled, whole, strict=True) if full]
    cells = (f"{'' if full else '~'}{times}" for times in theirs)
    return (*cells, *map(str, ours), *ratios, " / ".join(method) or "~", agreement)


def _compare_steps(model: XLMWithLMHeadModel, peers: Sequence[Peer], batch: int, new: int) -> Sequence[str]:
    """Of all sides only some steps, each after other random tokens."""
    vocabulary = model.config.vocab_size
    prompts = prompts_of(batch, vocabulary)
    generator = torch.Generator().manual_seed(batch)
    engine = DecoderEngine(model, EngineConfig(max_slots=batch))
    decode(engine, prompts, 2, DecodingMode.MASK_APPEND)
    for peer in peers:
        peer.generate(prompts, 2)
    ours: list[Took] = []
    theirs: list[list[Took]] = [[] for _ in peers]
    agreement = "equal"
    for place in _places(new):
        tokens = torch.randint(14, vocabulary, (batch, place), generator=generator).tolist()
        before = [(*prompt, *ids) for prompt, ids in zip(prompts, tokens, strict=True)]
        ids, took, _ = decode(engine, before, 1, DecodingMode.MASK_APPEND)
        ours.append(took)
        for peer, steps in zip(peers, theirs, strict=True):
            their_ids, took = peer.generate(before, 1)
            steps.append(took)
            agreement = _agree(model, before, ids, their_ids, agreement)
    mine, *others = (Times([_all_of(steps, new)]) for steps in (ours, *theirs))
    ratio = " / ".join(f"{one.cpu.median / mine.cpu.median:.1f}x" for one in others)
    return (*(f"~{times}" for times in others), f"~{mine}", ratio, "~", agreement)


def _places(new: int) -> range:
    """Which of the steps are run."""
    return range((EVERY - 1) // 2, new, EVERY)


def _all_of(steps: Sequence[Took], new: int) -> Took:
    """What `new` steps take, of which some were run."""
    scale = new / len(steps)
    return Took(scale * sum(took.cpu_s for took in steps), scale * sum(took.wall_s for took in steps))


def _agree(
    model: XLMWithLMHeadModel,
    prompts: Sequence[tuple[int, ...]],
    ours: Sequence[Sequence[int]],
    theirs: Sequence[Sequence[int]],
    so_far: str,
) -> str:
    """Raises SystemExit where ids differ though the scores are clear."""
    for prompt, a, b in zip(prompts, ours, theirs, strict=True):
        if list(a) == list(b):
            continue
        place = next(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
        ids = torch.tensor([[*prompt, *a[:place], model.config.mask_token_id]])
        with torch.inference_mode():
            scores = model(ids, langs=torch.zeros_like(ids), return_dict=True).logits[0, -1]
        margin = abs(float(scores[a[place]] - scores[b[place]]))
        if margin > MARGIN:
            raise SystemExit(f"ids differ at length {len(prompt) + place} by a margin of {margin:.2g}")
        so_far = f"equal up to length {len(prompt) + place}, margin {margin:.1e}"
    return so_far
