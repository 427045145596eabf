"""From a taken execution to something that runs: reading, checking and tokenising, off the threads that compute.

Whatever goes wrong with one request ends here with that request and touches no other.
"""

from __future__ import annotations

import logging
from concurrent.futures.process import BrokenProcessPool
from functools import partial

import xlmstream.status as statuses
from google.rpc.status_pb2 import Status
from xlmstream.v1.common_pb2 import TASK_DETOKENIZE, TASK_TOKENIZE, TASK_TRANSLATE
from xlmstream_server.broker.v1.messages_pb2 import Event

from xlmstream_worker.admission import GENERATING
from xlmstream_worker.errands import Errands
from xlmstream_worker.loops import Loops
from xlmstream_worker.models import LoadedModel
from xlmstream_worker.observe import fields, where
from xlmstream_worker.rows import Outbox, Row, RowEvents
from xlmstream_worker.tasks.encoder_tasks import ENCODER_TASKS
from xlmstream_worker.tasks.encoding import Encoding
from xlmstream_worker.tasks.generate import Generation
from xlmstream_worker.tasks.inputs import Refused
from xlmstream_worker.tasks.tokenize import detokenize, tokenize
from xlmstream_worker.tasks.translate import Translation
from xlmstream_worker.tokenizing import Prepared, TokenizerProcesses, prepare

log = logging.getLogger(__name__)


class Preparer:
    """Turns rows into running generations and encodings or into answers.

    One thread: tokenising holds the interpreter, so more would only get in the way of those that compute. Requests of
    encoder tasks go to `processes` where there are any. Bulk rows wait for all others.
    """

    def __init__(
        self,
        model: LoadedModel,
        loops: Loops,
        outbox: Outbox,
        worker_id: str,
        processes: TokenizerProcesses | None = None,
    ) -> None:
        self._model = model
        self._loops = loops
        self._outbox = outbox
        self._worker_id = worker_id
        self._processes = processes
        self._errands = Errands(f"prepare {model.full_name}")

    def submit(self, row: Row) -> None:
        """Prepare a row; its events come through the outbox, whatever happens."""
        envelope = row.taken.envelope
        can_move = envelope.task in ENCODER_TASKS and envelope.task in self._model.card.tasks and not row.taken.alone
        if self._processes is not None and can_move:
            self._processes.submit(envelope.task, envelope.request, partial(self._prepared_elsewhere, row))
        else:
            self._submit_here(row)

    def close(self) -> None:
        """Drop what has not begun."""
        self._errands.close()
        if self._processes is not None:
            self._processes.close()

    def _submit_here(self, row: Row) -> None:
        self._errands.submit(partial(self._prepare_or_fail, row), bulk=row.bulk)

    def _prepare_or_fail(self, row: Row) -> None:
        """Prepare a row; one whose preparation meets a defect ends."""
        try:
            self._prepare(row)
        except Exception as error:
            self._fail(row, error)

    def _prepare(self, row: Row) -> None:
        if row.ended:
            return
        task = row.taken.envelope.task
        try:
            if task not in self._model.card.tasks:
                raise Refused(statuses.task_unsupported(self._model.full_name, task, self._model.card.tasks))
            if task in GENERATING and self._loops.decode is not None:
                kind = Translation if task == TASK_TRANSLATE else Generation
                generation = kind(row, self._model, self._worker_id)
                self._leave(row, *generation.opening())
                self._loops.decode.start(row, generation)
            elif task == TASK_TOKENIZE:
                self._leave(row, Event(tokenized=tokenize(row, self._model, self._worker_id)))
            elif task == TASK_DETOKENIZE:
                self._leave(row, Event(detokenized=detokenize(row, self._model, self._worker_id)))
            else:
                self._start(row, prepare(task, row.taken.envelope.request, self._model))
        except Refused as refused:
            self._leave(row, Event(failed=refused.status))

    def _start(self, row: Row, prepared: Prepared) -> None:
        """Have an encoding computed."""
        if isinstance(prepared.items, Status):
            self._leave(row, Event(failed=prepared.items))
            return
        task = ENCODER_TASKS[row.taken.envelope.task]
        encoding = Encoding(row, task, prepared.items, self._model, self._worker_id, prepared.tokenize_s)
        self._loops.encode.start(row, encoding)

    def _prepared_elsewhere(self, row: Row, prepared: Prepared | BaseException) -> None:
        if isinstance(prepared, BrokenProcessPool):
            log.error("a tokenizer process died", extra=fields(execution_id=row.execution_id))
            self._submit_here(row)
        elif isinstance(prepared, BaseException):
            self._fail(row, prepared)
        else:
            self._model.text_rate.note(prepared.text_bytes, prepared.tokens)
            self._start(row, prepared)

    def _fail(self, row: Row, error: BaseException) -> None:
        log.error("preparing failed", extra=fields(execution_id=row.execution_id, error=where(error)))
        self._leave(row, Event(failed=statuses.internal()))

    def _leave(self, row: Row, *events: Event) -> None:
        if events:
            self._outbox.put([RowEvents(row, events)])
