"""Where the time of a request went, as its caller is told."""

from __future__ import annotations

import time

from xlmstream.v1.common_pb2 import Timing

from xlmstream_worker.rows import Row


def timing(row: Row, worker_id: str, *, tokenize_s: float = 0.0, compute_s: float = 0.0, batch_size: int = 0) -> Timing:
    """The Timing of a request that ends now. Queue time is the broker's clock, all else this process's."""
    queue_us = max(0, row.taken.taken_ms - row.taken.envelope.accepted_ms) * 1000
    return Timing(
        queue_us=queue_us,
        tokenize_us=round(tokenize_s * 1e6),
        compute_us=round(compute_s * 1e6),
        total_us=queue_us + round((time.monotonic() - row.taken_at) * 1e6),
        worker_id=worker_id,
        batch_size=batch_size,
    )
