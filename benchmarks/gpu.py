"""What both benchmarks of a GPU need: the device, its speeds, a clock that waits for it."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch


def device_of(arguments: argparse.Namespace) -> torch.device | None:
    """What `--device` asks for; None, and a word about it, where there is no such GPU."""
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("no CUDA device: nothing measured")
        return None
    return device


def add_device(options: argparse.ArgumentParser) -> None:
    options.add_argument("--device", default="cuda", help='"cpu" only shows that the benchmark runs (default: cuda)')


def name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU"


def finish_work(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(device: torch.device, run: Callable[[], object], calls: int = 1) -> float:
    """Seconds of one call, the best of ten rounds of `calls`."""
    best = float("inf")
    for _ in range(10):
        finish_work(device)
        began = time.perf_counter()
        for _ in range(calls):
            run()
        finish_work(device)
        best = min(best, time.perf_counter() - began)
    return best / calls


def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second that a copy within the device reads and writes."""
    source = torch.empty(2**30 if device.type == "cuda" else 2**24, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / timed(device, lambda: target.copy_(source))


def product_flops(device: torch.device) -> float:
    """Operations per second of a large bfloat16 product."""
    size = 8192 if device.type == "cuda" else 256
    a = torch.randn(size, size, dtype=torch.bfloat16, device=device)
    return 2 * size**3 / timed(device, lambda: a @ a)
