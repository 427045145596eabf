"""From a taken execution to something that runs: reading, checking and tokenising, off the decode thread.

Whatever goes wrong with one request ends here with that request and touches no other.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import xlmstream.status as statuses
from xlmstream.v1.common_pb2 import TASK_DETOKENIZE, TASK_GENERATE, TASK_TOKENIZE
from xlmstream_server.broker.v1.messages_pb2 import Event

from xlmstream_worker.models import LoadedModel
from xlmstream_worker.observe import fields, where
from xlmstream_worker.rows import Outbox, Row, RowEvents
from xlmstream_worker.tasks.generate import Generation
from xlmstream_worker.tasks.inputs import Refused
from xlmstream_worker.tasks.tokenize import detokenize, tokenize
from xlmstream_worker.worker import DecodeLoop

log = logging.getLogger(__name__)


class Preparer:
    """A thread that turns rows into running generations or into answers.

    One thread: tokenising holds the interpreter, so more would only get in the decode thread's way.
    """

    def __init__(
        self, model: LoadedModel, decode: DecodeLoop, outbox: Outbox, worker_id: str, threads: int = 1
    ) -> None:
        self._model = model
        self._decode = decode
        self._outbox = outbox
        self._worker_id = worker_id
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="prepare")

    def submit(self, row: Row) -> None:
        """Prepare a row; its events come through the outbox, whatever happens."""
        self._pool.submit(self._prepare, row).add_done_callback(partial(self._check, row))

    def close(self) -> None:
        """Drop what has not begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _prepare(self, row: Row) -> None:
        if row.ended:
            return
        task = row.taken.envelope.task
        try:
            if task == TASK_GENERATE:
                generation = Generation(row, self._model, self._worker_id)
                self._leave(row, *generation.opening())
                self._decode.start(row, generation)
            elif task == TASK_TOKENIZE:
                self._leave(row, Event(tokenized=tokenize(row, self._model, self._worker_id)))
            elif task == TASK_DETOKENIZE:
                self._leave(row, Event(detokenized=detokenize(row, self._model, self._worker_id)))
            else:
                raise Refused(statuses.task_unsupported(self._model.full_name, task, self._model.card.tasks))
        except Refused as refused:
            self._leave(row, Event(failed=refused.status))

    def _check(self, row: Row, prepared: Future[None]) -> None:
        """End a row whose preparation met a defect."""
        if prepared.cancelled() or (error := prepared.exception()) is None:
            return
        log.error("preparing failed", extra=fields(execution_id=row.execution_id, error=where(error)))
        self._leave(row, Event(failed=statuses.internal()))

    def _leave(self, row: Row, *events: Event) -> None:
        if events:
            self._outbox.put([RowEvents(row, events)])
