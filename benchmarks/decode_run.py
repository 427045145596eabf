"""One run of the decoder engine, and clocks on its parts."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from xlmstream_worker.decoder import DecoderEngine
from xlmstream_worker.rowwise import RowwisePlan
from xlmstream_worker.sampling import BatchwisePlan
from xlmstream_worker.sequences import DecodingMode, SamplingParameters, SequenceRequest

PROMPT_TOKENS = 16


@dataclass(frozen=True)
class Took:
    cpu_s: float
    wall_s: float


@dataclass
class Clock:
    """CPU seconds spent inside wrapped functions, by name, less what it takes to look at the clock. What one of them
    does inside another counts for that other alone."""

    spent: dict[str, float] = field(default_factory=dict)
    inside: bool = False
    own_s: float = field(default_factory=lambda: _clock_s())

    def wrap(self, name: str, owner: object, attribute: str) -> None:
        setattr(owner, attribute, self.clocked(name, getattr(owner, attribute)))

    def clocked(self, name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: object, **keywords: object) -> Any:
            if self.inside:
                return inner(*arguments, **keywords)
            self.inside = True
            time.process_time()  # what the clock itself needs is out of the caches after a layer: fetched here
            began = time.process_time()
            result = inner(*arguments, **keywords)
            self.spent[name] = self.spent.get(name, 0.0) + time.process_time() - began - self.own_s
            self.inside = False
            return result

        return timed


def _clock_s() -> float:
    """CPU seconds between two looks at the clock with nothing between."""
    return min(-time.process_time() + time.process_time() for _ in range(1000))


@contextmanager
def clocked(engine: DecoderEngine) -> Iterator[Clock]:
    """The parts of a step of this engine: "prefill", "slots" (storing keys, values and tokens), "joining" (copying them
    to another slot), "choose"."""
    clock, plans = Clock(), (RowwisePlan, BatchwisePlan)
    originals = [plan.choose for plan in plans]
    writer = clock.clocked("slots", engine._cache.writer)
    engine._cache.writer = lambda *given: clock.clocked("slots", writer(*given))  # type: ignore[method-assign]
    clock.wrap("slots", engine._cache, "append")
    clock.wrap("joining", engine._cache, "start")
    clock.wrap("joining", engine._cache, "move")
    clock.wrap("prefill", engine._forward, "prefill")
    for plan in plans:
        clock.wrap("choose", plan, "choose")
    try:
        yield clock
    finally:
        for plan, original in zip(plans, originals, strict=True):
            plan.choose = original  # type: ignore[method-assign]


def prompts_of(count: int, vocabulary: int, *, ragged: bool = False) -> list[tuple[int, ...]]:
    generator = random.Random(count)
    lengths = [generator.randint(2, 2 * PROMPT_TOKENS - 2) if ragged else PROMPT_TOKENS for _ in range(count)]
    return [tuple(generator.randrange(14, vocabulary) for _ in range(length)) for length in lengths]


def decode(
    engine: DecoderEngine,
    prompts: Sequence[tuple[int, ...]],
    new: int,
    mode: DecodingMode,
    sampling: SamplingParameters | None = None,
    top_logprobs: int | None = None,
) -> tuple[list[list[int]], Took, int]:
    """Ids per prompt, what it took, steps. Greedy without `sampling`."""
    ids: dict[str, list[int]] = {}
    cpu, wall, steps = time.process_time(), time.perf_counter(), 0
    submit(engine, prompts, new, mode, sampling, top_logprobs)
    while not engine.idle:
        steps += 1
        for output in engine.step().tokens:
            if output.token_id is not None:
                ids.setdefault(output.key, []).append(output.token_id)
    took = Took(time.process_time() - cpu, time.perf_counter() - wall)
    return [ids[str(number)] for number in range(len(prompts))], took, steps


def step_s(
    engine: DecoderEngine,
    prompts: Sequence[tuple[int, ...]],
    steps: int,
    clock: Clock,
    sampling: SamplingParameters,
    top_logprobs: int | None,
) -> float:
    """CPU seconds of a NEXT_TOKEN step once all prompts are computed, which is when `clock` begins."""
    submit(engine, prompts, steps + len(prompts) + 1, DecodingMode.NEXT_TOKEN, sampling, top_logprobs)
    while engine.step().batch_size < len(prompts):
        pass
    engine.step()
    clock.spent.clear()
    began = time.process_time()
    for _ in range(steps):
        engine.step()
    took_s = (time.process_time() - began) / steps
    for number in range(len(prompts)):
        engine.cancel(str(number))
    while not engine.idle:
        engine.step()
    return took_s


def submit(
    engine: DecoderEngine,
    prompts: Sequence[tuple[int, ...]],
    new: int,
    mode: DecodingMode,
    sampling: SamplingParameters | None,
    top_logprobs: int | None,
) -> None:
    """Add a request per prompt, with its number as the key."""
    for number, prompt in enumerate(prompts):
        engine.add(
            SequenceRequest(
                str(number),
                prompt,
                0,
                mode,
                max_new_tokens=new,
                sampling=sampling or SamplingParameters(),
                top_logprobs=top_logprobs,
            )
        )
