"""Fixtures that every area shares: one private broker for the session, an empty one for each test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from effort import load_profile
from xlmstream_server.broker.embedded import EmbeddedBroker, EmbeddedBrokerError

load_profile()


@pytest.fixture(scope="session")
def broker_server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of the session's broker: REDIS_URL where set (its database is flushed!), else an embedded one."""
    if "REDIS_URL" in os.environ:
        yield os.environ["REDIS_URL"]
        return
    with ExitStack() as stack:
        try:
            broker = stack.enter_context(EmbeddedBroker(tmp_path_factory.mktemp("broker")))
        except EmbeddedBrokerError as error:
            if os.environ.get("CI") == "true":
                pytest.fail(str(error))
            pytest.skip(str(error))
        yield broker.url


@pytest.fixture
def broker_url(broker_server_url: str) -> str:
    """URL of a broker that holds nothing."""
    with redis.Redis.from_url(broker_server_url) as client:
        client.flushdb()
    return broker_server_url


@pytest.fixture(scope="session")
def translator_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A translation model that knows a toy text by heart; trained once, for all tests that want it."""
    from worker.toy_translator import make_translator

    return make_translator(tmp_path_factory.mktemp("translator") / "model")
