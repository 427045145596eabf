"""The decode loop: one thread that owns the engine of one model and never touches the broker.

    while the worker lives:
        take in what the other threads ask (start a row, end a row)
        let bulk rows in where slots are free, or out where others need them
        engine.step()
        turn its tokens into events and leave them in the outbox

Everything slow or uncertain (tokenising, talking to the broker, judging requests) is done by other threads.
"""

from __future__ import annotations

import logging
import queue
import time
from dataclasses import dataclass

import xlmstream.status as statuses
from xlmstream_server.broker.v1.messages_pb2 import Event

from xlmstream_worker.bulk_rows import BulkRows, StepCosts
from xlmstream_worker.decoder import DecoderEngine
from xlmstream_worker.observe import fields
from xlmstream_worker.rows import Outbox, Row, RowEvents
from xlmstream_worker.sequences import StepResult
from xlmstream_worker.tasks.generate import Generation

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Start:
    row: Row
    generation: Generation


@dataclass(frozen=True, slots=True)
class _End:
    row: Row


class DecodeLoop:
    """Runs generations on one engine. `run` belongs to the decode thread; the other methods may be called by any."""

    def __init__(self, engine: DecoderEngine, outbox: Outbox) -> None:
        self._engine = engine
        self._outbox = outbox
        self._inbox: queue.SimpleQueue[_Start | _End | None] = queue.SimpleQueue()  # None: the loop ends
        self._running: dict[str, tuple[Row, Generation]] = {}  # what the engine has
        self._bulk = BulkRows[_Start](engine.max_slots)
        self._costs = StepCosts()
        self._step_began: float | None = None

    def start(self, row: Row, generation: Generation) -> None:
        """Compute a row from the next step on."""
        self._inbox.put(_Start(row, generation))

    def end(self, row: Row) -> None:
        """Compute a row no further; `row.ended` must be set already. Its slot is free from the next step on."""
        self._inbox.put(_End(row))

    def stop(self) -> None:
        """Let `run` return after the present step."""
        self._inbox.put(None)

    @property
    def slots(self) -> int:
        """Sequences that can run at once."""
        return self._engine.max_slots

    @property
    def stuck_s(self) -> float:
        """For how long the present step has been running, in seconds; 0 between steps and when idle."""
        began = self._step_began
        return 0.0 if began is None else time.monotonic() - began

    def run(self) -> None:
        """The decode thread. An exception that leaves it is a defect and ends the worker."""
        while self._take_in():
            self._change_bulk_rows()
            self._step_began = began = time.monotonic()
            result = self._engine.step()
            self._step_began = None
            if not result.prefill_tokens:
                self._costs.note(result.batch_size, time.monotonic() - began)
            self._outbox.put_step(self._events_of(result))

    def _take_in(self) -> bool:
        """Apply what was asked since the last step, waiting for something while there is nothing to compute."""
        while True:
            try:
                asked = self._inbox.get(block=self._engine.idle and not self._bulk.waiting)
            except queue.Empty:
                return True
            if asked is None:
                return False
            if isinstance(asked, _End):
                self._forget(asked.row.key)
            elif asked.row.ended:
                continue
            elif asked.row.bulk:
                self._bulk.add(asked.row.key, asked.generation.slots, asked)
            else:
                self._add(asked)

    def _change_bulk_rows(self) -> None:
        """What leaves goes on later from the tokens that it has."""
        if not (self._bulk.waiting or self._bulk.running):
            return
        others = sum(generation.slots for row, generation in self._running.values() if not row.bulk)
        change = self._bulk.next(self._engine.spare_slots, others, self._costs.beside(others))
        for entry in change.leaving:
            del self._running[entry.key]
            self._engine.cancel(entry.key)
        for entry in change.joining:
            self._add(entry.work)

    def _add(self, start: _Start) -> None:
        try:
            self._engine.add(start.generation.begin())
        except ValueError as error:
            # The engine's own checks stand behind ours, for what only it can know.
            self._bulk.drop(start.row.key)
            refused = Event(failed=statuses.invalid_input([("parameters", str(error))]))
            self._outbox.put([RowEvents(start.row, (refused,))])
        else:
            self._running[start.row.key] = (start.row, start.generation)
            log.debug("generating", extra=fields(execution_id=start.row.execution_id))

    def _forget(self, key: str) -> None:
        """Have the engine compute nothing more of a row."""
        self._running.pop(key, None)
        self._bulk.drop(key)
        self._engine.cancel(key)

    def _events_of(self, result: StepResult) -> list[RowEvents]:
        events = []
        for output in result.tokens:
            if output.key not in self._running:  # ended by a stop string earlier in this very step
                continue
            row, generation = self._running[output.key]
            new = generation.push(output, result.batch_size)
            if generation.ended:
                self._forget(output.key)  # a stop string or a failure may leave something running
            elif output.finished is None and generation.candidate_ended(output.candidate):
                self._engine.finish(output.key, output.candidate)
            if new:
                events.append(RowEvents(row, new))
        return events
