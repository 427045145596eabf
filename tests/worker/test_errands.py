"""The order in which one thread runs what others ask."""

from __future__ import annotations

import queue
import threading

from xlmstream_worker.errands import URGENT_IN_A_ROW, Errands


def test_urgent_errands_go_first_and_bulk_ones_get_a_turn_now_and_then() -> None:
    errands, may_run = Errands("test"), threading.Event()
    done: queue.SimpleQueue[str] = queue.SimpleQueue()
    errands.submit(may_run.wait)
    for _ in range(3):
        errands.submit(lambda: done.put("bulk"), bulk=True)
    for _ in range(2 * URGENT_IN_A_ROW):
        errands.submit(lambda: done.put("urgent"))
    may_run.set()
    order = [done.get(timeout=60) for _ in range(2 * URGENT_IN_A_ROW + 3)]
    first = ["urgent"] * (URGENT_IN_A_ROW - 1)  # the one they waited for was urgent too
    assert order == [*first, "bulk", *["urgent"] * URGENT_IN_A_ROW, "bulk", "urgent", "bulk"]
    errands.close()


def test_what_has_not_begun_is_dropped_at_the_end() -> None:
    errands, began, may_end = Errands("test"), threading.Event(), threading.Event()
    done: queue.SimpleQueue[str] = queue.SimpleQueue()

    def first() -> None:
        began.set()
        may_end.wait(60)
        done.put("first")

    errands.submit(first)
    errands.submit(lambda: done.put("second"))
    assert began.wait(60)
    errands.close()
    may_end.set()
    assert done.get(timeout=60) == "first"
    for thread in threading.enumerate():
        if thread.name == "test":
            thread.join(60)
    assert done.empty()
