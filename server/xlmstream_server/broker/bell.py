"""Notices at once that work was submitted, for a worker that is busy with work that can wait."""

from __future__ import annotations

from xlmstream_server.broker.connection import Reply
from xlmstream_server.broker.link import Link

# A connection gives up a reply that takes much longer.
LONGEST_WAIT_S = 2.0


class Bell:
    """A connection of its own to what is rung with every submission. For one thread; `WorkerBroker.bell` makes it."""

    def __init__(self, link: Link, bells: list[bytes]) -> None:
        self._link = link
        self._bells = bells
        self._heard: list[bytes] | None = None

    def wait(self, timeout_s: float) -> bool:
        """Wait until something is submitted (true) or the time, at most 2 s, is over (false).

        What was submitted since the last call counts; at the first call nothing does. Raises BrokerDown.
        """
        if self._heard is None:
            replies = [self._link.command("XREVRANGE", bell, "+", "-", "COUNT", 1) for bell in self._bells]
            self._heard = [_last_id(reply) or b"0-0" for reply in replies]
        block_ms = max(1, int(min(timeout_s, LONGEST_WAIT_S) * 1000))
        rung = self._link.command("XREAD", "BLOCK", block_ms, "STREAMS", *self._bells, *self._heard)
        if rung is None:
            return False
        assert isinstance(rung, list)
        for one in rung:
            assert isinstance(one, list)
            bell, entries = one
            assert isinstance(bell, bytes)
            self._heard[self._bells.index(bell)] = _last_id(entries) or b"0-0"
        return True

    def close(self) -> None:
        """Disconnect."""
        self._link.close()


def _last_id(entries: Reply) -> bytes | None:
    """The id of the last of some entries of a stream."""
    assert isinstance(entries, list)
    if not entries:
        return None
    entry = entries[-1]
    assert isinstance(entry, list)
    assert isinstance(entry[0], bytes)
    return entry[0]
