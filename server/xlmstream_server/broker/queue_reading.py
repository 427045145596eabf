"""What the broker tells of workers and of what waits for them, as values."""

from __future__ import annotations

from collections.abc import Iterable

from xlmstream_server.broker.connection import Reply
from xlmstream_server.broker.v1.messages_pb2 import WorkerCard
from xlmstream_server.broker.values import ModelQueue, Registered


def registered(reply: Iterable[Reply]) -> list[Registered]:
    """The workers in a reply of models.lua."""
    found: list[Registered] = []
    for entry in reply:
        match entry:
            case [bytes(card), int(alive)]:
                found.append(Registered(WorkerCard.FromString(card), alive == 1))
    return found


def merged(replies: Iterable[Iterable[Reply]]) -> list[ModelQueue]:
    """The queues of all models, from a reply of load.lua of each shard."""
    found: dict[str, ModelQueue] = {}
    for reply in replies:
        for entry in reply:
            match entry:
                case [bytes(name), int(requests), int(size_bytes), int(tokens), int(oldest_ms)]:
                    model = name.decode()
                    other = found.get(model, ModelQueue(model, 0, 0, 0, 0.0))
                    found[model] = ModelQueue(
                        model,
                        other.requests + requests,
                        other.size_bytes + size_bytes,
                        other.tokens + tokens,
                        max(other.oldest_wait_s, oldest_ms / 1000),
                    )
    return list(found.values())
