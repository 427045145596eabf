"""The synchronous connection of a worker: redis-py's, used for what we need and without its silent retries."""

# mypy: disable-error-code="no-untyped-call"
# redis-py types its clients, not the connection below them.

from __future__ import annotations

import time
from collections.abc import Sequence

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from xlmstream_server.broker.connection import CONNECT_TIMEOUT_S, TIMEOUT_S, Argument, Reply, error_of
from xlmstream_server.broker.errors import BrokerDown, BrokerError
from xlmstream_server.broker.scripts import script


class Link:
    """One connection, for one thread. Reconnects by itself; never repeats a command by itself.

    Attributes:
        connected_s: monotonic time at which the present connection was made, or None.
    """

    def __init__(self, url: str) -> None:
        self.connected_s: float | None = None
        self._url = url
        pool = redis.ConnectionPool.from_url(
            url,
            protocol=2,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            redis_connect_func=self._connected,
        )
        self._connection = pool.make_connection()

    def another(self) -> Link:
        """A further connection to the same broker, for another thread."""
        return Link(self._url)

    def _connected(self, connection: redis.Connection) -> None:
        connection.on_connect()
        self.connected_s = time.monotonic()

    def commands(self, commands: Sequence[Sequence[Argument]]) -> list[Reply | BrokerError]:
        """Send commands in one write and read their replies. Raises BrokerDown where not all of them came."""
        connection = self._connection
        replies: list[Reply | BrokerError] = []
        try:
            connection.connect()
            connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            for _ in commands:
                try:
                    replies.append(connection.read_response(disable_decoding=True))
                except redis.ResponseError as error:
                    replies.append(error_of(_text(error)))
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            self.close()
            raise BrokerDown(f"the broker cannot be reached: {error}") from error
        return replies

    def command(self, *command: Argument) -> Reply:
        """Send one command. Raises BrokerDown or the error of the reply."""
        (reply,) = self.commands([command])
        if isinstance(reply, BrokerError):
            raise reply
        return reply

    def scripts(self, name: str, calls: Sequence[tuple[bytes, Sequence[Argument]]]) -> list[list[Reply]]:
        """Run one script on several shards, given as (root, arguments), in one round trip."""
        source = script(name)
        replies = self.commands([source.by_sha(root, *arguments) for root, arguments in calls])
        found: list[list[Reply]] = []
        for (root, arguments), reply in zip(calls, replies, strict=True):
            if isinstance(reply, BrokerError) and str(reply).startswith("NOSCRIPT"):
                reply = self.command(*source.by_text(root, *arguments))
            if isinstance(reply, BrokerError):
                raise reply
            assert isinstance(reply, list)
            found.append(reply)
        return found

    def close(self) -> None:
        """Disconnect; the next command connects again."""
        self.connected_s = None
        self._connection.disconnect()


# redis-py takes the first word of these replies away and puts it into the class.
_FIRST_WORDS = {
    redis.exceptions.NoScriptError: "NOSCRIPT",
    redis.exceptions.ReadOnlyError: "READONLY",
    redis.exceptions.OutOfMemoryError: "OOM",
    redis.exceptions.NoPermissionError: "NOPERM",
    redis.exceptions.MasterDownError: "MASTERDOWN",
    redis.exceptions.ClusterDownError: "CLUSTERDOWN",
    redis.exceptions.TryAgainError: "TRYAGAIN",
    redis.exceptions.MovedError: "MOVED",
}


def _text(error: redis.ResponseError) -> str:
    """The reply as the broker sent it."""
    return f"{_FIRST_WORDS.get(type(error), '')} {error}".strip()
