"""The passes over a row of scores that compiled choosing is made of, and where its code is kept."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from decoder.test_sampling import shifted
from hypothesis import given
from hypothesis import strategies as st
from xlmstream_worker.rowwise import compiling, vectors


def test_powers_of_two() -> None:
    xs = np.linspace(-126, 20, 100_001, dtype=np.float32)
    got = np.array([compiling.exp2(x) for x in xs[::50]], np.float64)
    np.testing.assert_allclose(got, np.exp2(xs[::50].astype(np.float64)), rtol=3e-7)
    assert compiling.exp2(np.float32(0.0)) == 1.0


@given(
    values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False) | st.just(-math.inf), min_size=1),
    k=st.integers(1, 100),
)
def test_the_kth_highest(values: list[float], k: int) -> None:
    k = min(k, len(values))
    assert vectors.kth_highest(np.array(values, np.float32), k) == sorted(np.float32(values), reverse=True)[k - 1]


@given(st.lists(st.sampled_from([0.5, 1.0, 2.0, -3.0]) | st.floats(-1, 1, width=32), max_size=200))
def test_sorting_is_stable(values: list[float]) -> None:
    places = np.empty(len(values), np.int64)
    vectors.sort_descending(np.array(values, np.float32), places)
    assert places.tolist() == sorted(range(len(values)), key=lambda place: -np.float32(values[place]))


@pytest.mark.parametrize("k", [1, 3, 11, 12, 13, 100, 400, 3000, 3022, 3030, 3072])
@pytest.mark.parametrize("scale", [1e-30, 0.01, 1.0, 1e30])
@pytest.mark.parametrize("decimals", [0, 2, 9])
def test_the_best_are_collected_in_order(k: int, scale: float, decimals: int) -> None:
    scores = shifted(1, 3072, 1.0, 2)[0].round(decimals=decimals) * scale + scale
    scores[40:90] = -torch.inf
    maxima, ids, values = np.empty(12, np.float32), np.empty(3072, np.int32), np.empty(3072, np.float32)
    assert vectors.block_maxima(scores.numpy(), maxima)
    count = vectors.collect_best(scores.numpy(), maxima, k, ids, values)
    expected = (scores >= scores.topk(k).values[-1]).nonzero()[:, 0]
    assert ids[:count].tolist() == expected.tolist()
    assert values[:count].tolist() == scores[expected].tolist()


def test_compiled_code_is_kept_where_it_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling._config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = compiling._cache_folder()
    assert folder is not None
    assert Path(folder).is_dir()
    assert Path(folder).parent == tmp_path / "cache" / "xlmstream"
    Path(folder).chmod(0o777)
    assert compiling._cache_folder() is None
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert compiling._cache_folder() is None
    monkeypatch.setattr(compiling._config, "CACHE_DIR", "elsewhere")
    assert compiling._cache_folder() == "elsewhere"
