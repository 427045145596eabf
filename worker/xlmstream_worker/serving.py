"""One model, served: its engines, its threads and its place in the queue, put together.

    publisher thread  Publisher   the broker, the rows
    listen thread     Listening   new calls beside chunks of jobs
    decode thread     DecodeLoop  the decoder engine, of a model that generates
    encode thread     EncodeLoop  the encoder engine
    prepare thread    Preparer    the tokenizer
    finish thread     EncodeLoop  the messages of encoder tasks

Each model of a process is served on its own: it has its own lease, and the failure of one leaves the others alone.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from xlmstream.version import __version__
from xlmstream_server.broker import WorkerBroker
from xlmstream_server.broker.v1.messages_pb2 import ServedModel, WorkerCard

from xlmstream_worker.decoder import DecoderEngine
from xlmstream_worker.encode_loop import EncodeLoop
from xlmstream_worker.encoder import EncoderEngine
from xlmstream_worker.jobs.chunks import Chunks
from xlmstream_worker.listening import Listening
from xlmstream_worker.loops import Loops
from xlmstream_worker.models import LoadedModel
from xlmstream_worker.observe import fields
from xlmstream_worker.preparing import Preparer
from xlmstream_worker.publisher import Publisher
from xlmstream_worker.rows import Outbox
from xlmstream_worker.tokenizing import TokenizerProcesses
from xlmstream_worker.worker import DecodeLoop

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Engines:
    """What computes for one model."""

    decoder: DecoderEngine | None
    """None for a model that neither generates nor translates."""
    encoder: EncoderEngine


class Serving:
    """A loaded model with its threads. `start`, then `drain`, then `join`; each once."""

    def __init__(
        self,
        model: LoadedModel,
        engines: Engines,
        broker: WorkerBroker,
        alive: Callable[[], None],
        stall_limit_s: float,
        tokenizers: int = 1,
    ) -> None:
        """`tokenizers`: requests of encoder tasks to tokenise at once; 1: in a thread, more: in as many processes."""
        self._model = model
        outbox = Outbox()
        decode = None if engines.decoder is None else DecodeLoop(engines.decoder, outbox)
        loops = Loops(decode, EncodeLoop(engines.encoder, outbox))
        worker_id = broker.life.partition(":")[0]
        processes = TokenizerProcesses(model, tokenizers) if tokenizers > 1 else None
        preparer = Preparer(model, loops, outbox, worker_id, processes)
        slots = 0 if decode is None else decode.slots
        self._listening = Listening(broker.bell(), outbox.wake)
        chunks = Chunks(slots, loops.encode.batch_tokens, model.text_rate, self._listening.switch)
        self._publisher = Publisher(broker, loops, chunks, preparer, outbox, stall_limit_s, self._card, alive)
        publishing = threading.Thread(target=self._publisher.run, name=f"publish {model.full_name}", daemon=True)
        listening = threading.Thread(target=self._listening.run, name=f"listen {model.full_name}", daemon=True)
        self._publishing = publishing
        self._threads = [*loops.threads(model.full_name), publishing, listening]

    def start(self) -> None:
        """Begin to take requests."""
        for thread in self._threads:
            thread.start()
        log.info("serving", extra=fields(model=self._model.full_name, revision=self._model.card.revision))

    def drain(self, grace_s: float) -> None:
        """Take nothing more; what still runs after `grace_s` goes back to the queue."""
        self._publisher.drain(grace_s)

    def join(self) -> None:
        """Wait until the publisher has handed over. A thread that is stuck computing is left behind."""
        self._publishing.join()
        self._listening.close()

    def _card(self, rows: int, room: int) -> WorkerCard:
        served = ServedModel(
            model=self._model.card,
            bytes_per_token=self._model.text_rate.bytes_per_token,
            slots=rows + room,
            busy_slots=rows,
        )
        return WorkerCard(version=__version__, models=[served])
