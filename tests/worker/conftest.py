from __future__ import annotations

from pathlib import Path

import pytest
from worker.toy import make_model
from xlmstream_worker.config import DeviceConfig, ModelConfig
from xlmstream_worker.models import LoadedModel, load_model


@pytest.fixture(scope="session")
def toy_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory that nothing may change."""
    return make_model(tmp_path_factory.mktemp("models") / "toy", input_format="original")


@pytest.fixture(scope="session")
def toy(toy_directory: Path) -> LoadedModel:
    return load_model(ModelConfig(toy_directory, "toy"), DeviceConfig())
