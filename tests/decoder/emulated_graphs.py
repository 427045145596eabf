"""CUDA graphs without CUDA: what they do to a step, on a CPU.

A recording keeps every operation with the very tensors it was given and gave. Launching it does the same operations
again on the same memory: what was a number in Python when it was recorded stays that number, and a tensor that has been
replaced since, rather than written, is not seen. In this a recording of a GPU is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from xlmstream_worker.graphs import GraphedSteps


class Recording(TorchDispatchMode):
    """Stands for a `torch.cuda.CUDAGraph`."""

    def __init__(self) -> None:
        super().__init__()
        self._done: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        given = {tensor.untyped_storage()._cdata for tensor in tree_leaves((args, kwargs)) if _has_storage(tensor)}
        # Views and tensors written in place are there already.
        made = [tensor for tensor in tree_leaves(result) if tensor.untyped_storage()._cdata not in given]
        self._done.append((function, args, kwargs, made))
        return result

    def replay(self) -> None:
        for function, args, kwargs, made in self._done:
            again = tree_leaves(function(*args, **kwargs))
            for tensor, new in zip(made, again, strict=bool(made)):
                tensor.copy_(new)


class EmulatedGraphs(GraphedSteps):
    """As on a GPU, with recordings of this kind."""

    def _recording(self, run: Callable[[], None]) -> Any:
        run()
        recording = Recording()
        with recording:
            run()
        return recording


def _has_storage(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided
