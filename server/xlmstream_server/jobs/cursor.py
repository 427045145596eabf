"""Cursors of results and tokens of pages: the broker's places, sealed so that only what was given out is taken back."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

_MAC_BYTES = 12


class Seal:
    """Seals places of one kind of reading.

    Args:
        secret: known to all gateways and to nobody else.
        field: names the cursor in errors.
        life: tells the life of what is read from that of another one under the same name.
        reading: what a place depends on, such as order and filter.
    """

    def __init__(self, secret: str, life: int, *reading: object) -> None:
        self._secret = secret.encode()
        self._life = life
        self._reading = repr(reading).encode()

    def close(self, place: str) -> str:
        """The cursor of a place."""
        content = f"{self._life:x}.{place}".encode()
        return base64.urlsafe_b64encode(self._mac(content) + content).rstrip(b"=").decode()

    def open(self, cursor: str) -> str | None:
        """The place of a cursor; None for one of another life.

        Raises ValueError for anything else that `close` did not give for this reading.
        """
        try:
            sealed = base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
        except (UnicodeEncodeError, binascii.Error) as cause:
            raise ValueError("not a cursor") from cause
        mac, content = sealed[:_MAC_BYTES], sealed[_MAC_BYTES:]
        life, point, place = content.partition(b".")
        if not point:
            raise ValueError("not a cursor")
        if life != f"{self._life:x}".encode():
            return None
        if not hmac.compare_digest(mac, self._mac(content)):
            raise ValueError("a cursor of another reading")
        return place.decode()

    def _mac(self, content: bytes) -> bytes:
        return hmac.digest(self._secret, self._reading + b"\0" + content, hashlib.sha256)[:_MAC_BYTES]
