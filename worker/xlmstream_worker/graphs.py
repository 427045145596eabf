"""Fixed shapes for decode steps, and CUDA graphs of them.

A GPU runs a step of a small model faster than the host can launch its kernels one by one. A step whose shapes and
addresses are always the same can be recorded once and launched whole. Rows lie side by side in slots and everything
about them lives in the slots, so a recording for B slots and T positions serves every batch that fits: nothing is
copied in, and rows that are not there are computed along and ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .sequences import DecodingMode

_CONTEXT_STEP = 128

Compute = Callable[[DecodingMode, slice, int, int], Tensor]
"""(mode, slots, context, context of the sources or 0) to scores (B, V)."""


def padded_rows(rows: int) -> int:
    """The fixed batch size for this many rows: 2, 4, 8, then every 8th up to 64, then every 32nd.

    A single row is computed as two: a GPU adds the bias of a linear layer within the product from two rows on, and
    before it, in a launch of its own, for one.
    """
    if rows <= 8:
        return max(1 << (rows - 1).bit_length(), 2)
    step = 8 if rows <= 64 else 32
    return -(-rows // step) * step


def padded_context(context: int, limit: int) -> int:
    """The fixed number of positions for this many."""
    return min(limit, -(-context // _CONTEXT_STEP) * _CONTEXT_STEP)


def widest_padding(slots: int) -> int:
    """Most slots that padding adds to a batch of up to `slots` rows."""
    return max(padded_rows(rows) - rows for rows in range(1, slots + 1))


def shapes(slots: int, limit: int, source_limit: int = 0) -> Iterator[tuple[int, int, int]]:
    """All fixed shapes (batch, context, context of the sources), the largest first, so that the smaller ones reuse its
    memory."""
    for rows in sorted({padded_rows(rows) for rows in range(1, slots + 1)}, reverse=True):
        for context in _contexts(limit):
            for source_context in _contexts(source_limit):
                yield rows, context, source_context


def _contexts(limit: int) -> list[int]:
    """All fixed numbers of positions, the largest first; 0 where there are none at all."""
    sizes = {padded_context(size, limit) for size in range(1, limit + 1, _CONTEXT_STEP)}
    return sorted(sizes, reverse=True) or [0]


class GraphedSteps:
    """Recordings of steps, all of which leave their scores in one place.

    Nothing is recorded while rows decode: a recording stops the device and takes memory. Steps without one, such as
    those of parts of a batch after a failure, are their caller's to compute.
    """

    def __init__(self, rows: int, vocabulary: int, device: torch.device) -> None:
        self._scores = torch.empty(rows, vocabulary, dtype=torch.float32, device=device)
        self._graphs: dict[tuple[DecodingMode, int, int, int, int], torch.cuda.CUDAGraph] = {}
        self._stream: torch.cuda.Stream | None = None
        self._first: torch.cuda.CUDAGraph | None = None

    def replay(self, mode: DecodingMode, slots: slice, context: int, source_context: int) -> Tensor | None:
        """Scores float32 (B, V) of a range of slots, valid until the next call; None where there is no recording."""
        graph = self._graphs.get((mode, slots.start, slots.stop, context, source_context))
        if graph is None:
            return None
        graph.replay()
        return self._scores[: slots.stop - slots.start]

    def record(self, compute: Compute, mode: DecodingMode, slots: slice, context: int, source_context: int) -> None:
        """Record a step, and launch it once, which brings the recording onto the device.

        `compute` runs too, and may do so at will: keys and values are written where the step itself writes them.
        """

        def run() -> None:
            self._scores[: slots.stop - slots.start].copy_(compute(mode, slots, context, source_context))

        graph = self._recording(run)
        graph.replay()
        self._graphs[mode, slots.start, slots.stop, context, source_context] = graph

    def _recording(self, run: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """One stream for all: libraries keep memory to work in for each stream they are used on, and get it in the
        run before the first recording. One pool for all: only one of them is launched at a time, and what they return
        lies outside it. "thread_local": other threads may go on computing on the device meanwhile.
        """
        with torch.cuda.device(self._scores.device):
            self._stream = self._stream or torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch has no types
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                run()
            torch.cuda.current_stream().wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            pool = None if self._first is None else self._first.pool()
            with torch.cuda.graph(graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"):
                run()
        self._first = self._first or graph
        return graph
