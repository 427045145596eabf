"""Wakes whoever watches something."""

from __future__ import annotations

import asyncio


class Signal:
    """Counts changes; any number of tasks may wait for the next one without missing any."""

    def __init__(self) -> None:
        self.count = 0
        self._next = asyncio.Event()

    def fire(self) -> None:
        self.count += 1
        self._next.set()
        self._next = asyncio.Event()

    async def beyond(self, seen: int) -> int:
        """Until `count` exceeds `seen`; returns it."""
        while self.count <= seen:
            await self._next.wait()
        return self.count
