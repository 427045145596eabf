from __future__ import annotations

import pytest
from decoder.plain import build_model
from xlmstream_worker.xlm import XLMWithLMHeadModel


@pytest.fixture(scope="session")
def causal_model() -> XLMWithLMHeadModel:
    return build_model()


@pytest.fixture(scope="session")
def masked_model() -> XLMWithLMHeadModel:
    return build_model(causal=False)
