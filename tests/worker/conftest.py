from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from worker.fake_broker import FakeBroker
from worker.toy import make_model
from worker.watched import WatchedEngine
from xlmstream_worker.config import DeviceConfig, ModelConfig
from xlmstream_worker.encoder import EncoderEngine
from xlmstream_worker.models import LoadedModel, load_model
from xlmstream_worker.serving import Engines, Serving


@pytest.fixture(scope="session")
def toy_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory that nothing may change."""
    return make_model(tmp_path_factory.mktemp("models") / "toy", input_format="original")


@pytest.fixture(scope="session")
def toy(toy_directory: Path) -> LoadedModel:
    return load_model(ModelConfig(toy_directory, "toy"), DeviceConfig())


@pytest.fixture
def broker() -> FakeBroker:
    return FakeBroker()


@pytest.fixture
def engine(toy: LoadedModel) -> WatchedEngine:
    return WatchedEngine(toy)


@pytest.fixture
def serving(toy: LoadedModel, engine: WatchedEngine, broker: FakeBroker) -> Iterator[Serving]:
    serving = Serving(toy, Engines(engine, EncoderEngine(toy.network)), broker, alive=lambda: None, stall_limit_s=0.1)
    serving.start()
    yield serving
    broker.down = False
    engine.may_step.set()
    serving.drain(0.0)
    serving.join()
    assert broker.handed_over is not None
