"""The cache of words: bounded, never wrong, safe to share."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizer.texts import examples
from xlmstream_worker.xlm.word_cache import GenerationCache


@given(keys=st.lists(st.text(max_size=2)), size=st.integers(2, 9))
@examples
def test_it_never_outgrows_its_size_and_never_lies(keys: list[str], size: int) -> None:
    cache: GenerationCache[str] = GenerationCache(size)
    for key in keys:
        assert cache.get(key) in (None, key * 2)
        cache.put(key, key * 2)
        assert cache.get(key) == key * 2
        assert cache.get_many([key]) == [key * 2]
        assert len(cache) <= size


def test_what_is_used_stays() -> None:
    cache: GenerationCache[int] = GenerationCache(10)
    cache.put("often", 1)
    for index in range(100):
        cache.put(str(index), index)
        assert cache.get("often") == 1
    assert cache.get("0") is None


def test_a_size_too_small_to_halve() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        GenerationCache(1)


def test_threads_share_it() -> None:
    cache: GenerationCache[int] = GenerationCache(50)

    def use(seed: int) -> int:
        wrong = 0
        for index in range(3000):
            key = (seed * 7 + index * 13) % 80
            found = cache.get(str(key))
            wrong += found not in (None, key)
            cache.put(str(key), key)
        return wrong

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(use, range(4))) == 0
    assert len(cache) <= 50 + 4
