"""One life of a worker process: its name, its lease, its entry in the registry (synchronous)."""

from __future__ import annotations

import re
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

from xlmstream_server.broker import failures, journal
from xlmstream_server.broker.bell import LONGEST_WAIT_S, Bell
from xlmstream_server.broker.connection import Argument, Reply, check_info, check_shards
from xlmstream_server.broker.errors import BrokerError, Fenced
from xlmstream_server.broker.link import Link
from xlmstream_server.broker.scripts import REGISTRY_ROOT, shard_root
from xlmstream_server.broker.v1.messages_pb2 import WorkerCard

CARD_ALIVE_MS = 30_000

_WORKER_ID = re.compile(r"[A-Za-z0-9._-]{1,48}")


class WorkerLife(ABC):
    """What a worker is to the others, whatever it runs. What it owns is its subclass's to know."""

    def __init__(self, link: Link, worker_id: str, models: Sequence[str], lease_s: float, shards: int) -> None:
        self._link = link
        self._worker_id = worker_id
        self._models = tuple(models)
        self._lease_s = lease_s
        self._roots = [shard_root(shard) for shard in range(shards)]
        self._life = ""
        # Of each shard the bell's last id that a take has seen.
        self._bells: list[bytes] = [b"0-0"] * shards
        self._offset_ms = 0.0
        self._cancelled = journal.encode(failures.cancelled())
        self._deadline_queue = journal.encode(failures.deadline_queue())
        self._deadline_compute = journal.encode(failures.deadline_compute())
        self._poisoned = journal.encode(failures.poisoned())

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        worker_id: str,
        models: Sequence[str],
        lease_s: float = 3.0,
        shards: int = 1,
        allow_volatile: bool = False,
    ) -> Self:
        """Connect, check the broker's configuration and begin a life.

        Args:
            url: redis://, rediss:// or unix:// URL.
            worker_id: name of the worker, 1 to 48 characters of letters, digits, '.', '_' and '-'.
            models: "name@version" of each model it serves: the lanes it takes from. No '|' and no line breaks.
            lease_s: after this long without `renew` others may take its rows.
            shards: number of shards, 1 to 256; the same for every process of an installation.
            allow_volatile: accept a broker without appendonly (a warning is logged).

        Raises:
            BrokerDown, BrokerMisconfigured, ValueError.
        """
        if not _WORKER_ID.fullmatch(worker_id):
            raise ValueError(
                f"worker_id must be 1 to 48 characters of letters, digits, '.', '_' and '-': {worker_id!r}"
            )
        if not models or any(not model or "|" in model or "\n" in model for model in models):
            raise ValueError(f"models must be names without '|' and line breaks, at least one: {models!r}")
        if not 1 <= shards <= 256:
            raise ValueError(f"shards must be 1 to 256: {shards}")
        link = Link(url)
        info = link.command("INFO")
        assert isinstance(info, bytes)
        check_info(info, allow_volatile=allow_volatile)
        check_shards(link.command("SET", REGISTRY_ROOT + b"shards", shards, "NX", "GET"), shards)
        broker = cls(link, worker_id, models, lease_s, shards)
        broker.begin()
        return broker

    @abstractmethod
    def _drop(self) -> None:
        """Forget all that this life owned."""

    @property
    def life(self) -> str:
        """ "wid:epoch" of the present life."""
        return self._life

    @property
    def renew_every_s(self) -> float:
        """A third of the lease."""
        return self._lease_s / 3

    @property
    def reap_every_s(self) -> float:
        """A tenth of the lease: what the work of a dead worker waits for beyond its lease."""
        return self._lease_s / 10

    def now_ms(self) -> int:
        """Broker time in milliseconds, from the monotonic clock and the time stamp of the last answer."""
        return int(time.monotonic() * 1000 + self._offset_ms)

    def begin(self) -> str:
        """Begin a new life, forgetting every row of the last; returns its name. Needed after `Fenced` only."""
        self._drop()
        self._life = f"{self._worker_id}:{secrets.token_hex(4)}"
        self._everywhere("begin", [self._life, self._lease_ms, *self._models])
        return self._life

    def register(self, card: WorkerCard) -> None:
        """Tell the registry what this worker serves (`card.worker` is filled in), for 30 s or until `close`."""
        card.worker = self._life
        self._link.scripts("register", [(REGISTRY_ROOT, [self._worker_id, card.SerializeToString(), CARD_ALIVE_MS])])

    def renew(self) -> None:
        """Extend the lease, also a late one that nobody has reaped. Raises BrokerDown, Fenced."""
        self._everywhere("renew", [self._life, self._lease_ms])

    def reap(self) -> int:
        """Put the work of workers whose lease has run out back into the queue; returns the number of executions moved.

        Does nothing on a connection younger than the lease: after the broker's return every lease looks late.
        """
        connected_s = self._link.connected_s
        if connected_s is None or time.monotonic() - connected_s < self._lease_s:
            return 0
        return self._moved("reap", [self._life, self._cancelled, self._deadline_compute, self._poisoned])

    def wait(self, timeout_s: float) -> bool:
        """Wait until new work may be there (true) or the time is over (false). For a worker without rows.

        Work submitted since the last `take` is noticed at once. At most 2 s, so that leases are renewed in between.
        """
        block_ms = max(1, int(min(timeout_s, LONGEST_WAIT_S) * 1000))
        bells = [root + b"bell" for root in self._roots]
        return self._link.command("XREAD", "BLOCK", block_ms, "STREAMS", *bells, *self._bells) is not None

    def bell(self) -> Bell:
        """What another thread can wait on for new work, while this one is busy with work that can wait."""
        return Bell(self._link.another(), [root + b"bell" for root in self._roots])

    @property
    def _lease_ms(self) -> int:
        return int(self._lease_s * 1000)

    def _everywhere(self, name: str, arguments: list[Argument]) -> list[list[Reply]]:
        replies = self._link.scripts(name, [(root, arguments) for root in self._roots])
        return [self._checked(reply) for reply in replies]

    def _moved(self, name: str, arguments: list[Argument]) -> int:
        return sum(integer(reply[1]) for reply in self._everywhere(name, arguments))

    def _checked(self, reply: list[Reply]) -> list[Reply]:
        """What follows OK: broker time first."""
        if reply[0] == b"FENCED":
            self._drop()
            raise Fenced(f"the lease of {self._life} ran out and its work was given to others")
        if reply[0] != b"OK":
            raise BrokerError(f"unexpected reply {reply[0]!r}")
        self._offset_ms = integer(reply[1]) - time.monotonic() * 1000
        return reply[1:]

    def _retire(self) -> None:
        """End this life: what it still owns goes to others at once, the registry counts it no more."""
        self._everywhere("retire", [self._life])
        self._link.scripts("withdraw", [(REGISTRY_ROOT, [self._worker_id, self._life])])


def integer(reply: Reply) -> int:
    """A reply that is a number."""
    assert isinstance(reply, int)
    return reply
