"""Our engine beside `generate` of transformers: the same prompts, taking turns, ids compared before a time counts."""

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
        return f"{self.cpu:.2f}, {Spread.of([took.wall_s for took in self.runs]).median:.2f}"


def against_transformers(
    kind: str,
    pythons: Sequence[str],
    sizes: Sequence[str],
    batches: Sequence[int],
    news: Sequence[int],
    repeats: int,
    most_s: float,
) -> Table:
    """`most_s`: leave out what transformers would take longer for, in seconds."""
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
                if expected_s > most_s:
                    left_out.append(f"{size}, batch {batch}, {new} tokens")
                    continue
                count = repeats if expected_s < 60 else 1
                table.rows.append((size, str(batch), str(new), *_compare(model, peers, modes, batch, new, count)))
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
        *(f"{mode.name}: speed-up" for mode in modes), "ids",
    )  # fmt: skip
    table.notes.append(
        "Ids of every run are compared with MASK_APPEND's before its time counts; where they part, the scores must be "
        f"within {MARGIN:g} of each other. Speed-ups are ratios of CPU time, against each version in turn."
        + (" NEXT_TOKEN feeds no mask and so gives other ids than `generate`." if len(modes) == 2 else "")
    )
    if left_out:
        table.notes.append(f"Left out, as transformers takes minutes to hours (`--full`): {'; '.join(left_out)}.")
    return table


def _compare(
    model: XLMWithLMHeadModel,
    peers: Sequence[Peer],
    modes: Sequence[DecodingMode],
    batch: int,
    new: int,
    repeats: int,
) -> Sequence[str]:
    prompts = prompts_of(batch, model.config.vocab_size)
    engine = DecoderEngine(model, EngineConfig(max_slots=batch, prefix_cache_bytes=0))
    for mode in modes:
        decode(engine, prompts, 4, mode)
    for peer in peers:
        peer.generate(prompts, 2)
    theirs = [Times() for _ in peers]
    ours = [Times() for _ in modes]
    agreement = "equal"
    for _ in range(repeats):
        answers = [peer.generate(prompts, new) for peer in peers]
        for times, (_, took) in zip(theirs, answers, strict=True):
            times.runs.append(took)
        for mode, times in zip(modes, ours, strict=True):
            ids, took, _ = decode(engine, prompts, new, mode)
            times.runs.append(took)
            if mode is DecodingMode.MASK_APPEND:
                for their_ids, _ in answers:
                    agreement = _agree(model, prompts, ids, their_ids, agreement)
    ratios = (" / ".join(f"{one.cpu.median / mine.cpu.median:.1f}x" for one in theirs) for mine in ours)
    return (*map(str, theirs), *map(str, ours), *ratios, agreement)


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
            raise SystemExit(f"ids differ at token {place} by a margin of {margin:.2g}")
        so_far = f"equal up to token {place}, margin {margin:.1e}"
    return so_far
