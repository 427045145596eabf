"""How a client connects: targets and channel options, the same for blocking and asyncio channels."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

DEFAULT_ADDRESS = "127.0.0.1:50051"

ChannelOptions = Sequence[tuple[str, Any]]
"""Pairs as grpc takes them; the values are ints and strings, typed `Any` because grpc types them so."""

_SCHEME = re.compile(r"(dns|ipv4|ipv6|unix|unix-abstract|vsock|xds):", re.IGNORECASE)

_DEFAULTS: dict[str, int | str] = {
    # Spread calls over every address that a name resolves to; the default would pin the channel to one gateway.
    "grpc.service_config": json.dumps({"loadBalancingConfig": [{"round_robin": {}}]}),
    # grpc's own retries ignore RetryInfo; ours do not.
    "grpc.enable_retries": 0,
    # Notice a peer that vanished without a word within 40 s, also while a stream is silent.
    "grpc.keepalive_time_ms": 30_000,
    "grpc.keepalive_timeout_ms": 10_000,
    # A gateway that restarts is back in seconds; grpc's own limit of two minutes between attempts is too patient.
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 5_000,
    # The service bounds its answers; grpc's default of 4 MiB would refuse a large batch.
    "grpc.max_receive_message_length": -1,
}


def targets_of(address: str | Sequence[str]) -> tuple[str, ...]:
    """One grpc target for each address; "host:port" is resolved by DNS, a target with a scheme is taken as it is."""
    addresses = (address,) if isinstance(address, str) else tuple(address)
    if not addresses or not all(addresses):
        raise ValueError(f"need at least one address such as {DEFAULT_ADDRESS!r}, not {address!r}")
    return tuple(one if _SCHEME.match(one) else f"dns:///{one}" for one in addresses)


def options_with(overrides: ChannelOptions) -> list[tuple[str, Any]]:
    """The client's channel options; an override replaces the default of the same name."""
    return list({**_DEFAULTS, **dict(overrides)}.items())
