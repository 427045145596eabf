"""The encode loop: one thread that owns the encoder engine of one model, and one that turns its values into events.

    encode thread    take in what the others ask, engine.step(), hand complete executions on
    finish thread    from the values of an execution to its terminal event, which goes into the outbox

So the device never waits for messages being built.
"""

from __future__ import annotations

import logging
import queue
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import xlmstream.status as statuses
from xlmstream_server.broker.v1.messages_pb2 import Event

from xlmstream_worker.encoder import EncoderEngine
from xlmstream_worker.encoder_inputs import EncoderStep
from xlmstream_worker.observe import fields, where
from xlmstream_worker.rows import Outbox, Row, RowEvents
from xlmstream_worker.tasks.encoding import Encoding

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Start:
    row: Row
    encoding: Encoding[Any]


@dataclass(frozen=True, slots=True)
class _End:
    row: Row


class EncodeLoop:
    """Runs encodings on one engine. `run` belongs to the encode thread; the other methods may be called by any."""

    def __init__(self, engine: EncoderEngine, outbox: Outbox) -> None:
        self._engine = engine
        self._outbox = outbox
        self._inbox: queue.SimpleQueue[_Start | _End | None] = queue.SimpleQueue()  # None: the loop ends
        self._running: dict[str, tuple[Row, Encoding[Any]]] = {}
        self._finisher = ThreadPoolExecutor(1, thread_name_prefix="finish")
        self._step_began: float | None = None

    def start(self, row: Row, encoding: Encoding[Any]) -> None:
        """Compute a row from the next batch on."""
        self._inbox.put(_Start(row, encoding))

    def end(self, row: Row) -> None:
        """Compute a row no further; `row.ended` must be set already."""
        self._inbox.put(_End(row))

    def stop(self) -> None:
        """Let `run` return after the present batch."""
        self._inbox.put(None)

    @property
    def batch_tokens(self) -> int:
        """Most tokens of a batch."""
        return self._engine.batch_tokens

    @property
    def stuck_s(self) -> float:
        """For how long the present batch has been running, in seconds; 0 between batches and when idle."""
        began = self._step_began
        return 0.0 if began is None else time.monotonic() - began

    def run(self) -> None:
        """The encode thread. An exception that leaves it is a defect and ends the worker."""
        while self._take_in():
            self._step_began = time.monotonic()
            step = self._engine.step()
            self._step_began = None
            self._log(step)
            for output in step.outputs:
                row, encoding = self._running[output.key]
                encoding.push(output, step.batch_size)
                if encoding.complete:
                    del self._running[output.key]
                    self._finish(row, encoding)
        self._finisher.shutdown(wait=False, cancel_futures=True)

    def _log(self, step: EncoderStep) -> None:
        if log.isEnabledFor(logging.DEBUG):
            for key, sequences in Counter(output.key for output in step.outputs).items():
                name = self._running[key][0].execution_id
                log.debug("encoded", extra=fields(execution_id=name, sequences=sequences))

    def _take_in(self) -> bool:
        """Apply what was asked since the last batch, waiting for something while there is nothing to compute."""
        while True:
            try:
                asked = self._inbox.get(block=self._engine.idle)
            except queue.Empty:
                return True
            if asked is None:
                return False
            if isinstance(asked, _End):
                self._running.pop(asked.row.key, None)
                self._engine.cancel(asked.row.key)
            elif not asked.row.ended:
                self._add(asked.row, asked.encoding)

    def _add(self, row: Row, encoding: Encoding[Any]) -> None:
        if encoding.complete:  # every input was refused
            self._finish(row, encoding)
            return
        try:
            self._engine.add(encoding.begin())
        except ValueError as error:  # the engine's own checks stand behind ours
            log.error("the encoder refused a row", extra=fields(execution_id=row.execution_id, error=where(error)))
            self._outbox.put([RowEvents(row, (Event(failed=statuses.internal()),))])
        else:
            self._running[row.key] = (row, encoding)

    def _finish(self, row: Row, encoding: Encoding[Any]) -> None:
        self._finisher.submit(encoding.event).add_done_callback(partial(self._leave, row))

    def _leave(self, row: Row, finished: Future[Event]) -> None:
        if finished.cancelled():
            return
        error = finished.exception()
        if error is not None:
            log.error("finishing failed", extra=fields(execution_id=row.execution_id, error=where(error)))
        event = finished.result() if error is None else Event(failed=statuses.internal())
        self._outbox.put([RowEvents(row, (event,))])
