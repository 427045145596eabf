from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import grpc.aio
import pytest
from e2e.service import Service
from e2e.solo import Solo
from worker.toy import make_model
from xlmstream.v1.inference_pb2_grpc import InferenceServiceStub
from xlmstream_worker.config import DeviceConfig, ModelConfig
from xlmstream_worker.models import load_model

if TYPE_CHECKING:  # the .pyi files tell the asynchronous stubs apart, the modules do not
    from xlmstream.v1.inference_pb2_grpc import InferenceServiceAsyncStub


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory):
    return make_model(tmp_path_factory.mktemp("models") / "toy", input_format="original")


@pytest.fixture(scope="session")
def solo(model_directory) -> Solo:
    """What each prompt gives alone."""
    return Solo(load_model(ModelConfig(model_directory, "toy"), DeviceConfig()))


@pytest.fixture(scope="session")
def session_service(tmp_path_factory: pytest.TempPathFactory, model_directory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("service"), model_directory)
    yield service
    service.close()


@pytest.fixture
def service(session_service: Service) -> Iterator[Service]:
    """Broker and gateway, without a worker; what a test leaves behind fails it."""
    yield session_service
    session_service.end_workers()


@pytest.fixture
async def stub(service: Service) -> AsyncIterator[InferenceServiceAsyncStub]:
    async with grpc.aio.insecure_channel(service.address) as channel:
        yield InferenceServiceStub(channel)
