"""Counts jobs and their items for the metrics: what the broker holds, looked at now and then."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

from xlmstream.status import job_state_name
from xlmstream.v1.job_pb2 import JobState, JobTask

from xlmstream_server.broker import BrokerError, JobStore
from xlmstream_server.call import TENANT
from xlmstream_server.observe.metrics import Metrics

COUNT_EVERY_S = 15.0
# The newest of each tenant; those before are not counted.
MOST_COUNTED = 1000
A_PAGE = 100

ITEM_STATES = ("pending", "running", "succeeded", "failed", "skipped")
TASKS = tuple(JobTask.DESCRIPTOR.fields_by_name)


class JobCensus:
    """Keeps the gauges of jobs. Run `run` as a task of the gateway's group where somebody reads them."""

    def __init__(self, store: JobStore, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics

    async def run(self) -> None:
        while True:
            with contextlib.suppress(BrokerError):
                await self.count()
            await asyncio.sleep(COUNT_EVERY_S)

    async def count(self) -> None:
        """Set the gauges. Raises BrokerError."""
        jobs: Counter[int] = Counter()
        items: Counter[tuple[str, str]] = Counter()
        place, seen = "", 0
        while seen < MOST_COUNTED:
            records, place = await self._store.list_jobs(TENANT, limit=A_PAGE, before=place)
            for record in records:
                jobs[record.state] += 1
                branch = record.spec.task.WhichOneof("parameters") or ""
                for state in ITEM_STATES:
                    items[branch, state] += getattr(record, state)
            seen += len(records)
            if not place:
                break
        for number in JobState.values()[1:]:
            self._metrics.jobs.labels(job_state_name(number)).set(jobs[number])
        for task in TASKS:
            for state in ITEM_STATES:
                self._metrics.job_items.labels(task, state).set(items[task, state])
