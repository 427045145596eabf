"""What both ends do with a connection: read the URL, check the broker, tell its errors apart."""

from __future__ import annotations

import logging
from typing import TypeAlias

from xlmstream_server.broker.errors import BrokerDown, BrokerError, BrokerMisconfigured, QueueFull

logger = logging.getLogger(__name__)

Reply: TypeAlias = "bytes | int | list[Reply] | None"
Argument: TypeAlias = bytes | str | int

# The longest a command may take. Blocking reads stay well below it.
TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 2.0
# While the broker is away: how often to look for it.
PROBE_S = 0.2

_AWAY = ("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "MISCONF", "NOREPLICAS", "BUSY", "TRYAGAIN", "MOVED")
_NO_ROOM = "ERR max number of clients reached"
_REFUSED = ("NOAUTH", "WRONGPASS", "NOPERM")


def error_of(message: str) -> BrokerError:
    """Our error for an error reply."""
    kind = message.split(" ", 1)[0]
    if kind in _AWAY or message == _NO_ROOM:
        return BrokerDown(message)
    if kind == "OOM":
        return QueueFull(1.0, "memory", 0)
    if kind in _REFUSED:
        return BrokerMisconfigured(f"the broker refuses us: {message}")
    return BrokerError(message)


def check_info(info: bytes, *, allow_volatile: bool) -> None:
    """Refuse a broker that would lose accepted work. `info` is the answer to INFO (managed services forbid CONFIG)."""
    values = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    version = values.get("redis_version", "0")
    if int(version.split(".")[0]) < 7:
        raise BrokerMisconfigured(f"Redis 7 or Valkey is needed; the broker speaks as Redis {version}")
    policy = values.get("maxmemory_policy", "")
    if policy != "noeviction":
        raise BrokerMisconfigured(
            f"the broker's maxmemory-policy is {policy!r}: it would evict accepted requests. Set it to noeviction"
        )
    if values.get("aof_enabled") != "1":
        if not allow_volatile:
            raise BrokerMisconfigured(
                "the broker runs with appendonly no: a restart would lose every accepted request. "
                "Set appendonly yes, or allow a volatile broker explicitly"
            )
        logger.warning("the broker runs with appendonly no: when it stops, every accepted request is lost")


def check_shards(stored: Reply, shards: int) -> None:
    """Refuse to split the keys in another way than those who came before. `stored` is what the broker holds."""
    if stored is not None and stored != str(shards).encode():
        raise BrokerMisconfigured(f"the broker is set up with {stored!r} shards, this process with {shards}")
