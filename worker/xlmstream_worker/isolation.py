"""Running many items at once so that the one at fault fails alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from .sequences import Failure, FailureKind

Item = TypeVar("Item")


def run_isolated(
    run: Callable[[Sequence[Item]], None], items: Sequence[Item], fail: Callable[[Item, Failure], None]
) -> None:
    """Run all items together; where that raises, run halves, down to the one item at fault, which `fail` is told.

    A device short of memory thus computes smaller batches. `run` must be repeatable: it may be called again for items
    it got half way with.

    Raises torch.AcceleratorError: after an illegal access, say, a GPU computes nothing more for this process, whose
    requests another worker must take.
    """
    if not items:
        return
    try:
        run(items)
    except torch.AcceleratorError:
        raise
    except (RuntimeError, ValueError, IndexError) as error:  # what torch raises, for lack of memory too
        failure = failure_of(error)
        if len(items) == 1:
            fail(items[0], failure)
            return
        if failure.kind is FailureKind.OUT_OF_MEMORY and torch.cuda.is_available():
            torch.cuda.empty_cache()
        half = len(items) // 2
        for part in (items[:half], items[half:]):
            run_isolated(run, part, fail)


def failure_of(error: Exception) -> Failure:
    # On a CPU a failed allocation is a plain RuntimeError.
    starved = isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
    kind = FailureKind.OUT_OF_MEMORY if starved else FailureKind.COMPUTE
    return Failure(kind, str(error).partition("\n")[0])
