"""One model, served: its engine, its threads and its place in the queue, put together.

    publisher thread  Publisher   the broker, the rows
    decode thread     DecodeLoop  the engine
    prepare thread    Preparer    the tokenizer

Each model of a process is served on its own: it has its own lease, and the failure of one leaves the others alone.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from xlmstream.version import __version__
from xlmstream_server.broker import WorkerBroker
from xlmstream_server.broker.v1.messages_pb2 import ServedModel, WorkerCard

from xlmstream_worker.decoder import DecoderEngine
from xlmstream_worker.models import LoadedModel
from xlmstream_worker.observe import fields
from xlmstream_worker.preparing import Preparer
from xlmstream_worker.publisher import Publisher
from xlmstream_worker.rows import Outbox
from xlmstream_worker.worker import DecodeLoop

log = logging.getLogger(__name__)


class Serving:
    """A loaded model with its threads. `start`, then `drain`, then `join`; each once."""

    def __init__(
        self,
        model: LoadedModel,
        engine: DecoderEngine,
        broker: WorkerBroker,
        alive: Callable[[], None],
        stall_limit_s: float,
    ) -> None:
        self._model = model
        outbox = Outbox()
        decode = DecodeLoop(engine, outbox)
        worker_id = broker.life.partition(":")[0]
        self._slots = engine.max_slots
        self._publisher = Publisher(
            broker, decode, Preparer(model, decode, outbox, worker_id), outbox, stall_limit_s, self._card, alive
        )
        # Daemons: a step that never returns must not keep the process from ending.
        self._threads = [
            threading.Thread(target=decode.run, name=f"decode {model.full_name}", daemon=True),
            threading.Thread(target=self._publisher.run, name=f"publish {model.full_name}", daemon=True),
        ]

    def start(self) -> None:
        """Begin to take requests."""
        for thread in self._threads:
            thread.start()
        log.info("serving", extra=fields(model=self._model.full_name, revision=self._model.card.revision))

    def drain(self, grace_s: float) -> None:
        """Take nothing more; what still runs after `grace_s` goes back to the queue."""
        self._publisher.drain(grace_s)

    def join(self) -> None:
        """Wait until the publisher has handed over. A decode thread that is stuck is left behind."""
        self._threads[1].join()

    def _card(self, rows: int) -> WorkerCard:
        served = ServedModel(
            model=self._model.card,
            bytes_per_token=self._model.text_rate.bytes_per_token,
            slots=self._slots,
            busy_slots=min(rows, self._slots),
        )
        return WorkerCard(version=__version__, models=[served])
