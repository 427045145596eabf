"""Waiting for a job to change, in steps short enough to notice that this gateway goes away."""

from __future__ import annotations

import asyncio

from xlmstream_server import errors
from xlmstream_server.broker import JobRecord, JobStore
from xlmstream_server.call import CallMaker

STEP_S = 1.0


class Waiting:
    """Waits for changes on behalf of calls that follow jobs."""

    def __init__(self, store: JobStore, calls: CallMaker, heartbeat_s: float) -> None:
        self._store = store
        self._calls = calls
        self._heartbeat_s = heartbeat_s

    def refuse_if_leaving(self) -> None:
        """Raises ServiceError DRAINING where this gateway goes away."""
        if self._calls.draining:
            raise errors.draining()

    async def for_change(self, record: JobRecord, version: int) -> bool:
        """Whether the job has another version than `version`; false after so long a silence that a heartbeat is due.

        Raises ServiceError DRAINING.
        """
        clock = asyncio.get_running_loop().time
        due = clock() + self._heartbeat_s
        while (left_s := due - clock()) > 0:
            self.refuse_if_leaving()
            step_s = min(left_s, STEP_S)
            if await self._store.changed(record.spec.tenant, record.spec.job_id, version, step_s):
                return True
        return False
