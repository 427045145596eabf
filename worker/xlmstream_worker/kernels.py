"""Which of torch's kernels serve."""

from __future__ import annotations

import torch


def settle_kernels(device: torch.device) -> None:
    """To be called by whoever computes on a device; what it sets holds for the process.

    On a GPU of the Hopper kind and later torch computes attention by cuDNN where it can. That makes a plan for each
    batch size and length and for each thread, which takes the host 20 to 400 ms: prompts and batches have new ones all
    the time. The kernels that come next take any shape.
    """
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)
