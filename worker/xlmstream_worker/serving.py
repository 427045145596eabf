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
from importlib.metadata import version

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
