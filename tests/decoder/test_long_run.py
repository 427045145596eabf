"""Ten thousand requests of every kind through one engine: no slot, no key and no memory is lost on the way."""

from __future__ import annotations

import gc
import random
from itertools import pairwise
from pathlib import Path

import pytest
from decoder.plain import build_model
from decoder.translators import build_translator
from xlmstream_worker.decoder import DecoderEngine
from xlmstream_worker.sequences import (
    BeamParameters,
    DecodingMode,
    EngineConfig,
    SamplingParameters,
    SequenceRequest,
    Source,
)

REQUESTS = 10_000
# Memory is looked at after each of so many parts of the run, of which the first ones fill caches.
PARTS = 10
SETTLED = 3
# Bytes a request.
A_LEAK = 1024
_STATM = Path("/proc/self/statm")
_PAGE = 4096

WISHES = (
    SamplingParameters(),
    SamplingParameters(temperature=1.0, top_p=0.9, seed=1),
    SamplingParameters(temperature=0.7, top_k=9, seed=2),
    SamplingParameters(temperature=1.0, typical_p=0.6, seed=3),
    SamplingParameters(repetition_penalty=1.3, no_repeat_ngram_size=2, logit_bias=((9, 1.0),), bad_words=((8, 7),)),
)


def a_request(rng: random.Random, number: int, kind: str) -> SequenceRequest:
    beams = rng.randrange(20) == 0
    common = (5,) * 16 if rng.randrange(4) == 0 else ()
    return SequenceRequest(
        key=f"r{number}",
        prompt_ids=common + tuple(rng.randrange(97) for _ in range(rng.randint(1, 4))),
        source=Source(tuple(range(3, rng.randint(4, 40)))) if kind == "translator" else None,
        mode=rng.choice(MODES[kind]),
        max_new_tokens=rng.randint(1, 2),
        eos_id=1,
        sampling=SamplingParameters() if beams else rng.choice(WISHES),
        beam_search=BeamParameters(2) if beams else None,
        candidates=rng.choice((1, 1, 1, 2)),
        top_logprobs=None if beams else rng.choice((None, None, 3)),
        prefix_scope=rng.choice((None, f"tenant {number % 50}")),
    )


MODES = {
    "causal": list(DecodingMode),
    "masked": [DecodingMode.MASK_APPEND],
    "translator": [DecodingMode.NEXT_TOKEN],
}


def resident_bytes() -> int:
    gc.collect()
    return int(_STATM.read_text().split()[1]) * _PAGE


@pytest.mark.parametrize("kind", MODES)
def test_ten_thousand_requests_leak_no_slot_no_key_and_no_memory(kind: str) -> None:
    if not _STATM.exists():
        pytest.skip("memory is read from /proc")
    shape = {"n_layers": 1, "emb_dim": 8, "n_heads": 2}
    model = build_translator(**shape) if kind == "translator" else build_model(**shape, causal=kind == "causal")
    engine = DecoderEngine(model, EngineConfig(max_slots=64, prefix_cache_bytes=2**16))
    rng = random.Random(0)
    memory, objects, staging = [], [], len(engine._scheduler._staging)
    for number in range(REQUESTS):
        engine.add(a_request(rng, number, kind))
        if number % 8 == 0:
            engine.cancel(f"r{rng.randint(max(0, number - 20), number)}")
        if engine.free_slots == 0:
            engine.step()
        if (number + 1) % (REQUESTS // PARTS) == 0:
            memory.append(resident_bytes())
            objects.append(len(gc.get_objects()))
    while not engine.idle:
        engine.step()
    assert engine.free_slots == 64
    assert not engine._scheduler._keys
    assert not engine._searches
    assert len(engine._scheduler._staging) == staging
    # What runs holds a few hundred objects; an object lost a request would be thousands.
    assert len(gc.get_objects()) - objects[SETTLED] < REQUESTS // 10
    # A leak grows in every part of the run. The allocator, which takes megabytes at a time, and oneDNN, which keeps
    # code for a number of rows it has not met before, grow now and then.
    assert min(later - earlier for earlier, later in pairwise(memory[SETTLED:])) < REQUESTS // PARTS * A_LEAK
