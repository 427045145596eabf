"""Execution ids: two hex digits of the shard and 26 base32 characters, so that the id alone leads to its shard."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets

from xlmstream_server.broker.errors import NotFound

_ALPHABET = b"abcdefghijklmnopqrstuvwxyz234567"
# Maps each byte to a character, 8 bytes to each.
_BASE32 = bytes(_ALPHABET[byte % 32] for byte in range(256))
_SHAPE = re.compile(r"[0-9a-f]{2}[a-z2-7]{26}")


def _execution_id(shard: int, digest: bytes) -> str:
    return f"{shard:02x}{base64.b32encode(digest[:20]).decode().lower()[:26]}"


def random_id(shards: int) -> str:
    """An id nobody can guess, on a random shard. One draw: every request asks for it."""
    drawn = secrets.token_bytes(28)
    shard = int.from_bytes(drawn[26:], "big") % shards  # 65536 outcomes on at most 256 shards: even enough
    return f"{shard:02x}{drawn[:26].translate(_BASE32).decode()}"


def id_for(tenant: str, request_id: str, part: int, shards: int) -> str:
    """The id of a client's request_id, the same from every gateway: a duplicate meets its twin by construction."""
    digest = hashlib.sha256(f"{len(tenant)}:{tenant}{len(request_id)}:{request_id}{part}".encode()).digest()
    return _execution_id(int.from_bytes(digest[20:24], "big") % shards, digest)


def shard_of(execution_id: str, shards: int) -> int:
    """The shard of an id. Raises NotFound for what cannot be one of ours: ids come from clients too."""
    if not _SHAPE.fullmatch(execution_id) or int(execution_id[:2], 16) >= shards:
        raise NotFound(execution_id)
    return int(execution_id[:2], 16)
