"""The publisher: the one thread of a served model that talks to the broker.

It takes executions when slots are free, sends what each step brought while the next one runs, passes on what the broker
says of cancelled rows, and keeps the lease alive for as long as the decode loop moves. It owns the rows: only it begins
and ends them.

    broker away    events wait in the broker client and go with the next call that succeeds; nothing new is taken
    fenced         others have this worker's rows: drop them all and begin a new life
    decoder stuck  neither renew nor take: others get the rows when the lease has run out
    drain          take nothing, let rows finish within the grace, hand the rest over with their journals
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from itertools import count

from xlmstream_server.broker import BrokerDown, Fenced, Output, Stop, WorkerBroker, failures
from xlmstream_server.broker.v1.messages_pb2 import Event, WorkerCard

from xlmstream_worker.config import BrokerConfig
from xlmstream_worker.observe import fields
from xlmstream_worker.preparing import Preparer
from xlmstream_worker.rows import Outbox, Row, RowEvents
from xlmstream_worker.worker import DecodeLoop

log = logging.getLogger(__name__)

REGISTER_EVERY_S = 5.0
# How long a cancellation may wait to be noticed while steps are slow or rows are being tokenised.
LISTEN_EVERY_S = 0.05
# How long SIGTERM may wait to be noticed while there is nothing to do.
IDLE_WAIT_S = 0.5
RETRY_EVERY_S = 0.2
