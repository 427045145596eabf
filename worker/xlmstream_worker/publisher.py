"""The publisher: the one thread of a served model that talks to the broker.

It takes executions and chunks of jobs when there is room, sends what each step brought while the next one runs, passes
on what the broker says of cancelled ones, and keeps the lease alive for as long as the loops move. It owns the rows:
only it begins and ends them.

    broker away    events wait in the broker client and go with the next call that succeeds; nothing new is taken
    fenced         others have this worker's rows: drop them all and begin a new life
    loop stuck     say nothing: others get the rows when the lease has run out
    drain          take nothing, let rows finish within the grace, hand the rest over with their journals, and of chunks
                   the items without a result
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from itertools import count

from xlmstream_server.broker import BrokerDown, Fenced, ItemResult, Output, Stop, WorkerBroker, is_terminal
from xlmstream_server.broker.v1.messages_pb2 import Event, WorkerCard

from xlmstream_worker.endings import FAILURES, log_end
from xlmstream_worker.jobs.chunks import MOST_AT_ONCE, Chunks
from xlmstream_worker.loops import Loops
from xlmstream_worker.observe import fields
from xlmstream_worker.preparing import Preparer
from xlmstream_worker.rows import Outbox, Row, RowEvents

log = logging.getLogger(__name__)

REGISTER_EVERY_S = 5.0
# How long a cancellation may wait to be noticed while steps are slow or rows are being tokenised.
LISTEN_EVERY_S = 0.05
# How long SIGTERM may wait to be noticed while there is nothing to do.
IDLE_WAIT_S = 0.5
RETRY_EVERY_S = 0.2
STUCK_WAIT_S = 1.0


class Publisher:
    """Runs on its own thread (`run`); `drain` and `rows` may be used by any.

    `card` gives what the registry shall know now, given the number of rows and the room for more; `alive` is called
    every few seconds while the worker does its work.
    """

    def __init__(
        self,
        broker: WorkerBroker,
        loops: Loops,
        chunks: Chunks,
        preparer: Preparer,
        outbox: Outbox,
        stall_limit_s: float,
        card: Callable[[int, int], WorkerCard],
        alive: Callable[[], None],
    ) -> None:
        self._broker = broker
        self._loops = loops
        self._admission = loops.admission()
        self._chunks = chunks
        self._preparer = preparer
        self._outbox = outbox
        self._stall_limit_s = stall_limit_s
        self._card = card
        self._alive = alive
        self._rows: dict[str, Row] = {}  # by execution id; without those whose terminal event has been collected
        self._endings: list[Output] = []  # terminal events of rows that the broker wants ended
        self._takes = count()
        self._results: list[ItemResult] = []  # of items of chunks, to be sent
        self._work_waits = self._chunks_wait = True
        # Rows or chunks may be ours already: they come with the next take.
        self._take_unanswered = self._chunks_unanswered = False
        self._away_since: float | None = None  # the broker
        self._fenced = False
        self._renew_at = self._reap_at = self._register_at = 0.0
        self._draining = threading.Event()
        self._drain_until = float("inf")

    @property
    def rows(self) -> int:
        """Executions in this worker's hands, without chunks of jobs."""
        return len(self._rows)

    def drain(self, grace_s: float) -> None:
        """Take nothing more; hand over what still runs after `grace_s`. A second call may shorten the grace."""
        self._drain_until = min(self._drain_until, time.monotonic() + grace_s)
        self._draining.set()

    def run(self) -> None:
        """The publisher thread. Returns when drained."""
        while not self._drained():
            try:
                self._cycle()
            except BrokerDown as down:
                self._lost_broker(down)
            except Fenced:
                self._drop_rows()
        self._hand_over()

    def _cycle(self) -> None:
        """One step's worth: send what is new, keep the place in the queue, take what fits."""
        if self._is_stuck():
            time.sleep(STUCK_WAIT_S)
            return
        self._alive()
        if self._fenced:
            self._begin_anew()
        self._send(self._collect())
        self._keep_place()
        self._take()
        self._take_chunks()
        self._begin_items()
        self._found_broker()
        if self._idle and not self._draining.is_set():
            self._broker.wait(min(IDLE_WAIT_S, self._broker.reap_every_s))
            # Look again even where no bell rang: what nobody was allowed to take may have become free.
            self._work_waits = self._chunks_wait = True

    @property
    def _idle(self) -> bool:
        return not (self._rows or self._chunks or self._results)

    # What goes out

    def _collect(self) -> list[RowEvents]:
        """New events; while the broker is away, all that come until it is time to try again."""
        if self._away_since is None:
            return self._outbox.collect(0.0 if self._endings or self._idle else LISTEN_EVERY_S)
        collected, until = [], time.monotonic() + RETRY_EVERY_S
        while (left_s := until - time.monotonic()) > 0:
            collected += self._outbox.collect(left_s)
        return collected

    def _send(self, collected: Sequence[RowEvents]) -> None:
        outputs, self._endings = [*self._endings, *self._outputs(collected)], []
        for new in collected:
            if new.row.bulk:
                self._results += self._chunks.push(new)
        results, self._results = self._results, []
        if not (outputs or results or self._broker.held):
            return
        published = self._broker.publish(outputs, results)
        self._work_waits = published.waiting > 0
        self._chunks_wait = published.waiting_chunks > 0
        for name, stop in published.stop.items():
            if name in self._chunks:
                self._drop_chunk(name, stop)
            else:
                self._stop(name, stop)

    def _outputs(self, collected: Sequence[RowEvents]) -> list[Output]:
        """One output a row, in order; rows with their terminal event are let go."""
        events: dict[Row, list[Event]] = {}
        for new in collected:
            if not (new.row.bulk or new.row.ended):
                events.setdefault(new.row, []).extend(new.events)
                if is_terminal(new.events[-1]):
                    self._end(new.row)
                    log_end(new.row, new.events[-1])
        return [Output(row.execution_id, tuple(row_events)) for row, row_events in events.items()]

    def _stop(self, execution_id: str, stop: Stop) -> None:
        """End a row that nobody wants any more. The broker says so until it has the terminal event."""
        row = self._rows.get(execution_id)
        if row is None:
            return
        self._end(row)
        self._loops.end(row)
        if stop in FAILURES:
            self._endings.append(Output(execution_id, (FAILURES[stop](),)))
        log.info("stopped", extra=fields(execution_id=execution_id, reason=stop.value))

    def _drop_chunk(self, chunk_id: str, stop: Stop) -> None:
        """A job wants nothing more: the broker's end keeps the results that there are."""
        for row in self._chunks.drop(chunk_id):
            self._loops.end(row)
        log.info("stopped", extra=fields(chunk_id=chunk_id, reason=stop.value))

    def _end(self, row: Row) -> None:
        row.ended = True
        del self._rows[row.execution_id]
        self._admission.ended(row.taken.envelope)

    # What comes in

    def _take(self) -> None:
        room = self._admission.room(self._chunks.own_slots)
        if self._draining.is_set() or room == 0 or not (self._work_waits or self._take_unanswered):
            return
        self._work_waits = False  # until the next answer says otherwise
        self._take_unanswered = True
        given = self._broker.take(room)
        self._take_unanswered = False
        for taken in given:
            self._admission.took(taken.envelope)
            row = Row(taken, key=f"{taken.envelope.execution_id}#{next(self._takes)}")
            self._rows[row.execution_id] = row
            self._preparer.submit(row)

    def _take_chunks(self) -> None:
        room = self._chunks.room(self._unsaved)
        if self._draining.is_set() or room == 0 or not (self._chunks_wait or self._chunks_unanswered):
            return
        self._chunks_wait = False
        self._chunks_unanswered = True
        given = self._broker.take_chunks(MOST_AT_ONCE, room)
        self._chunks_unanswered = False
        for taken in given:
            self._results += self._chunks.took(taken)

    def _begin_items(self) -> None:
        """Have as many items of chunks run as may be without a saved result."""
        for row in self._chunks.begin(self._unsaved):
            self._preparer.submit(row)

    @property
    def _unsaved(self) -> int:
        """Results of items that the broker has not."""
        return self._broker.unsaved_results + len(self._results)

    # The place in the queue

    def _keep_place(self) -> None:
        now = time.monotonic()
        if now >= self._renew_at:
            self._broker.renew()
            self._renew_at = now + self._broker.renew_every_s
        if now >= self._reap_at:
            self._broker.reap()
            self._reap_at = now + self._broker.reap_every_s
        if now >= self._register_at:
            self._broker.register(self._card(len(self._rows), self._admission.room()))
            self._register_at = now + REGISTER_EVERY_S

    def _is_stuck(self) -> bool:
        stuck_s = self._loops.stuck_s
        if stuck_s <= self._stall_limit_s:
            return False
        log.error("a loop is stuck: not renewing the lease", extra=fields(stuck_s=round(stuck_s, 1)))
        return True

    def _lost_broker(self, down: BrokerDown) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()
            log.warning("broker away", extra=fields(error=str(down), rows=len(self._rows)))

    def _found_broker(self) -> None:
        if self._away_since is not None:
            log.info("broker back", extra=fields(away_s=round(time.monotonic() - self._away_since, 2)))
            self._away_since = None

    def _drop_rows(self) -> None:
        """Others have our rows: whatever is still computed for them goes nowhere."""
        log.warning("fenced: another worker has this worker's rows", extra=fields(rows=len(self._rows)))
        self._drop_all()
        self._endings.clear()
        self._results.clear()
        self._fenced = True

    def _drop_all(self) -> None:
        for row in list(self._rows.values()):
            self._end(row)
            self._loops.end(row)
        for name in self._chunks.names():
            self._drop_chunk(name, Stop.LOST)

    def _begin_anew(self) -> None:
        log.info("new life", extra=fields(worker=self._broker.begin()))
        self._fenced = self._take_unanswered = self._chunks_unanswered = False
        self._work_waits = self._chunks_wait = True
        self._renew_at = self._reap_at = self._register_at = 0.0

    # The end

    def _drained(self) -> bool:
        done = self._fenced or not self._broker.held
        return self._draining.is_set() and (done or time.monotonic() >= self._drain_until)

    def _hand_over(self) -> None:
        """Send what is finished, give the rest back to the queue, leave."""
        try:
            self._send(self._outbox.collect(0.0))
        except (BrokerDown, Fenced) as error:
            log.warning("leaving without a last word", extra=fields(error=type(error).__name__))
        log.info("leaving", extra=fields(handed_over=len(self._rows), chunks=len(self._chunks)))
        self._drop_all()
        self._outbox.close()
        self._preparer.close()
        self._loops.stop()
        self._broker.close()
