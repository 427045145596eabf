from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from xlmstream_worker.kernels import settle_kernels


@pytest.fixture
def cudnn_allowed() -> Iterator[None]:
    torch.backends.cuda.enable_cudnn_sdp(True)
    yield
    torch.backends.cuda.enable_cudnn_sdp(True)


@pytest.mark.parametrize(("device", "left"), [("cpu", True), ("cuda", False), ("cuda:1", False)])
def test_attention_on_a_gpu_is_not_planned_for_each_shape(cudnn_allowed: None, device: str, left: bool) -> None:
    settle_kernels(torch.device(device))
    assert torch.backends.cuda.cudnn_sdp_enabled() is left
