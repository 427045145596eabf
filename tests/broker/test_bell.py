"""The bell that a busy worker listens to, rung by real submissions."""

from __future__ import annotations

import asyncio

from broker.job_play import TENANT, spec, upload
from broker.play import envelope
from xlmstream_server.broker import GatewayBroker, WorkerBroker


async def test_it_rings_for_each_submission_and_each_job_and_remembers_while_nobody_waits(
    gateway: GatewayBroker, worker: WorkerBroker
) -> None:
    await gateway.submit(envelope(gateway))
    bell = worker.bell()
    assert not bell.wait(0.01)  # what was there before does not count
    waiting = asyncio.create_task(asyncio.to_thread(bell.wait, 2.0))
    await gateway.submit(envelope(gateway))
    assert await waiting
    assert not bell.wait(0.01)
    await gateway.jobs.create(spec())
    await upload(gateway.jobs, 3)
    assert bell.wait(0.01)
    worker.take_chunks(1)
    await gateway.jobs.cancel(TENANT, "a")
    assert bell.wait(0.01)
    assert not bell.wait(0.01)
    bell.close()
