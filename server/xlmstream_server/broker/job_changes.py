"""Waiting for jobs to change: one look at the broker for all who wait."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence

from xlmstream_server.broker.errors import BrokerError

LOOK_EVERY_S = 0.25


class JobChanges:
    """Looks at the versions of jobs as long as somebody waits for one. `look` gives them by the job's internal id."""

    def __init__(self, look: Callable[[Sequence[str]], Awaitable[Mapping[str, int]]]) -> None:
        self._look = look
        self._waiting: dict[asyncio.Future[None], tuple[str, int]] = {}
        self._looker: asyncio.Task[None] | None = None

    async def wait(self, jid: str, version: int, timeout_s: float) -> bool:
        """Until the job has another version (true) or the time is over (false)."""
        future = asyncio.get_running_loop().create_future()
        self._waiting[future] = (jid, version)
        if self._looker is None or self._looker.done():
            self._looker = asyncio.create_task(self._run(), name="job-changes")
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            return False
        finally:
            self._waiting.pop(future, None)
        return True

    async def close(self) -> None:
        if self._looker is not None:
            self._looker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._looker

    async def _run(self) -> None:
        while self._waiting:
            with contextlib.suppress(BrokerError):
                found = await self._look(sorted({jid for jid, _ in self._waiting.values()}))
                for future, (jid, version) in list(self._waiting.items()):
                    if jid in found and found[jid] != version and not future.done():
                        future.set_result(None)
            await asyncio.sleep(LOOK_EVERY_S)
