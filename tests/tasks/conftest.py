from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tasks.zoo import load, make
from xlmstream_worker.models import LoadedModel

Zoo = Callable[[str], LoadedModel]


@pytest.fixture(scope="session")
def directory_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of a model of the zoo."""
    home = tmp_path_factory.mktemp("zoo")
    return lambda name: home / name if (home / name).exists() else make(name, home)


@pytest.fixture(scope="session")
def zoo(directory_of: Callable[[str], Path]) -> Zoo:
    """A loaded model of the zoo by name."""
    loaded: dict[str, LoadedModel] = {}

    def model(name: str) -> LoadedModel:
        if name not in loaded:
            loaded[name] = load(directory_of(name))
        return loaded[name]

    return model
