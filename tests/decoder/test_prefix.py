"""Sharing the beginnings of prompts: what is shared, with whom, within which memory, and that it changes no token."""

from __future__ import annotations

import random

import pytest
from decoder.plain import build_model, plain_greedy, run
from hypothesis import given
from hypothesis import strategies as st
from xlmstream_worker.decoder import DecoderEngine
from xlmstream_worker.prefix import BLOCK_TOKENS, PrefixIndex, Sharers
from xlmstream_worker.sequences import DecodingMode, EngineConfig, SequenceRequest
from xlmstream_worker.xlm import XLMWithLMHeadModel

B = BLOCK_TOKENS


@pytest.fixture(scope="module")
def model() -> XLMWithLMHeadModel:
    return build_model(max_position_embeddings=128)


def prompt(*parts: tuple[int, int]) -> tuple[int, ...]:
    """Tokens made of runs (seed, length)."""
    ids: list[int] = []
    for seed, length in parts:
        rng = random.Random(seed)
        ids += [rng.randrange(3, 97) for _ in range(length)]
    return tuple(ids)


def test_common_beginnings_are_reused_and_change_nothing(model: XLMWithLMHeadModel) -> None:
    common = (1, 3 * B)
    requests = [
        SequenceRequest("first", prompt(common, (2, 9)), 1, max_new_tokens=12, prefix_scope="t"),
        SequenceRequest("same", prompt(common, (2, 9)), 1, max_new_tokens=12, prefix_scope="t"),
        SequenceRequest("longer", prompt(common, (3, 30)), 1, max_new_tokens=12, prefix_scope="t"),
        SequenceRequest("masked", prompt(common, (4, 2)), 1, DecodingMode.MASK_APPEND, None, 12, prefix_scope="t"),
        SequenceRequest("language", prompt(common, (2, 9)), 2, max_new_tokens=12, prefix_scope="t"),
        SequenceRequest("stranger", prompt(common, (2, 9)), 1, max_new_tokens=12, prefix_scope="u"),
        SequenceRequest("private", prompt(common, (2, 9)), 1, max_new_tokens=12),
        SequenceRequest("exact", prompt(common), 1, max_new_tokens=12, prefix_scope="t"),
    ]
    engine = DecoderEngine(model, EngineConfig(max_slots=4, prefill_tokens=20))
    cached = {}
    for request in requests:  # one after the other, so that the earlier ones are complete
        transcript = run(engine, [(0, request)])
        assert transcript.ids(request.key) == plain_greedy(model, request, 128)[0]
        cached[request.key] = transcript.outputs[request.key, 0][-1].cached_tokens
    assert cached == {
        "first": 0, "same": 3 * B, "longer": 3 * B, "masked": 3 * B, "language": 0, "stranger": 0, "private": 0,
        "exact": 2 * B,  # its last token is always computed
    }  # fmt: skip


def test_a_block_is_kept_only_when_all_its_tokens_are_computed(model: XLMWithLMHeadModel) -> None:
    """The last token of a prompt is left to the first step, when the prompt is stored already."""
    engine = DecoderEngine(model, EngineConfig(max_slots=4))
    exact, longer, other = prompt((1, 2 * B)), prompt((1, 2 * B), (2, 9)), (*prompt((1, 2 * B))[:-1], 3, 4)
    assert other[2 * B - 1] != exact[-1]
    cached = []
    for number, ids in enumerate([exact, longer, longer, other]):
        request = SequenceRequest(f"r{number}", ids, max_new_tokens=12, prefix_scope="t")
        transcript = run(engine, [(0, request)])
        assert transcript.ids(request.key) == plain_greedy(model, request, 128)[0]
        cached.append(transcript.outputs[request.key, 0][-1].cached_tokens)
    assert cached == [0, B, 2 * B, B]


def test_reuse_saves_the_computation(model: XLMWithLMHeadModel) -> None:
    engine = DecoderEngine(model, EngineConfig(max_slots=4))
    work = []
    for key in "ab":
        engine.add(SequenceRequest(key, prompt((1, 70)), max_new_tokens=1, prefix_scope="t"))
        work.append(sum(engine.step().prefill_tokens for _ in range(2)))
    assert work == [69, 69 - 4 * B]


def test_memory_is_bounded_and_the_least_used_makes_room(model: XLMWithLMHeadModel) -> None:
    block_bytes = 3 * 2 * 32 * 4 * B
    engine = DecoderEngine(model, EngineConfig(max_slots=2, prefix_cache_bytes=5 * block_bytes))

    def cached(seed: int) -> int:
        key = f"r{seed}"
        request = SequenceRequest(key, prompt((seed, 2 * B + 1)), max_new_tokens=1, prefix_scope="t")
        return run(engine, [(0, request)]).outputs[key, 0][-1].cached_tokens

    assert [cached(1), cached(2), cached(1)] == [0, 0, 2 * B]
    assert cached(3) == 0  # takes the free block and one of prompt 2, the least recently used
    assert [cached(1), cached(2)] == [2 * B, B]
    assert len(engine._scheduler._prefixes) == 5


def test_no_memory_no_reuse(model: XLMWithLMHeadModel) -> None:
    engine = DecoderEngine(model, EngineConfig(max_slots=2, prefix_cache_bytes=0))
    for key in "ab":
        request = SequenceRequest(key, prompt((1, 70)), max_new_tokens=2, prefix_scope="t")
        assert run(engine, [(0, request)]).outputs[key, 0][-1].cached_tokens == 0


def test_what_is_found_counts_as_used() -> None:
    """Though the prompt that begins with it may be cancelled before it is stored itself."""
    index, sharers = PrefixIndex(2), Sharers("t", None)
    first, second, third = ((token,) * B for token in (5, 6, 7))
    for ids in (first, second):
        index.store(sharers, ids)
    assert index.find(sharers, first)
    index.store(sharers, third)
    assert [len(index.find(sharers, ids)) for ids in (first, second, third)] == [1, 0, 1]


@given(st.lists(st.tuples(st.integers(0, 1), st.lists(st.integers(0, 1), max_size=6), st.booleans()), max_size=60))
def test_the_index_finds_what_is_stored_and_nothing_else(operations: list[tuple[int, list[int], bool]]) -> None:
    index = PrefixIndex(4)
    content: dict[int, tuple[object, tuple[int, ...]]] = {}  # block: whose, and the whole prefix it ends
    for scope, runs, store in operations:
        sharers = Sharers(str(scope), None)
        ids = [token for token in runs for _ in range(B)]
        if store:
            for block, start in index.store(sharers, ids):
                content[block] = (sharers, tuple(ids[: start + B]))
        found = index.find(sharers, ids)
        for place, block in enumerate(found):
            assert content[block] == (sharers, tuple(ids[: (place + 1) * B]))
        if store:
            assert len(found) == min(len(runs), 4)
        assert len(index) <= 4
