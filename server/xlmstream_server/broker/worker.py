"""A worker's end of the broker (synchronous; for one thread, the publisher)."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from xlmstream_server.broker.types import Output, Published, Taken
from xlmstream_server.broker.v1.messages_pb2 import WorkerCard


class WorkerBroker:
    """One worker process's place in the queue: its lives, its lease, its rows. Not thread-safe: it belongs to the publisher thread.

    It remembers each row it has taken and the events it was given for it until the broker has them, so the worker hands
    over new events and nothing else: numbers, gateways, repetition after a lost reply are settled here. After `BrokerDown`
    nothing is lost: call again, with new output or none, and everything unsent goes along. After `Fenced` all rows are gone: drop them
    and `begin` a new life.

    The publisher's loop: `publish` after each step (also with no output, while rows run, to hear of cancellations); `take` when
    slots are free and `Published.waiting` is not 0; `renew` every `renew_every_s` as long as the decode loop ticks; `reap` every
    `renew_every_s`; `register` every few seconds; `wait` when nothing runs.
    """

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
            worker_id: name of the worker, 1 to 64 characters of letters, digits, '.', '_' and '-'.
            models: "name@version" of each model it serves: the lanes it takes from.
            lease_s: after this long without `renew` others may take its rows.
            shards: number of shards; the same for every process of an installation.
            allow_volatile: accept a broker without appendonly (a warning is logged).

        Raises:
            BrokerDown, BrokerMisconfigured.
        """
        raise NotImplementedError

    def close(self) -> None:
        """End this life (rows still held go back to the queue by `handoff`) and close the connection. Never raises BrokerDown."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def life(self) -> str:
        """ "wid:epoch" of the present life."""
        raise NotImplementedError

    @property
    def renew_every_s(self) -> float:
        """A third of the lease."""
        raise NotImplementedError

    @property
    def held(self) -> tuple[str, ...]:
        """Execution ids of the rows it owns."""
        raise NotImplementedError

    def now_ms(self) -> int:
        """Broker time in milliseconds, from the monotonic clock and the last answers' time stamps."""
        raise NotImplementedError

    def begin(self) -> str:
        """Begin a new life, forgetting every row of the last; returns its name. Needed after `Fenced` only."""
        raise NotImplementedError

    def register(self, card: WorkerCard) -> None:
        """Tell the registry what this worker serves (`card.worker` is filled in). It forgets after 30 s."""
        raise NotImplementedError

    def take(self, n: int) -> list[Taken]:
        """Own up to `n` more executions, highest lane first; never blocks. Fewer, or none, is normal.

        Raises:
            BrokerDown, Fenced.
        """
        raise NotImplementedError

    def publish(self, outputs: Sequence[Output]) -> Published:
        """Send one step's output in one round trip: every row's events, the terminal ones included, one frame per gateway.

        Rows without output need not be named. A row whose terminal event was accepted is no longer held.

        Raises:
            BrokerDown: keep going; the events are kept and go with the next call.
            Fenced: all rows are lost to this worker.
        """
        raise NotImplementedError

    def renew(self) -> None:
        """Extend the lease, also a late one that nobody has reaped. Raises BrokerDown, Fenced."""
        raise NotImplementedError

    def reap(self) -> int:
        """Put the work of workers whose lease has run out back into the queue; returns the number of executions moved.

        Does nothing on a connection younger than the lease: after the broker's return every lease looks late.
        """
        raise NotImplementedError

    def handoff(self, execution_ids: Sequence[str]) -> int:
        """Give rows back to the queue, in front, with their journals; returns how many. They are no longer held. Publish first."""
        raise NotImplementedError

    def wait(self, timeout_s: float) -> bool:
        """Wait until new work may be there (true) or the time is over (false). For a worker without rows.

        Work submitted since the last `take` is noticed at once. At most 2 s, so that leases are renewed in between.
        """
        raise NotImplementedError
