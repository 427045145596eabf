"""One embed job while everything around it breaks: is every result there once, and how much ran twice?"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from xlmstream import Client, JobItem, JobState, RetryPolicy
from xlmstream_server.broker.embedded import EmbeddedBroker

from benchmarks import processes
from benchmarks.job_items import DEMO, items
from benchmarks.report import Table

MODEL = "xlm-mlm-demo"
WORKERS = 2
LEASE_S = 2.0
KILL_EVERY_S = 5.0
UPLOAD_BREAKS = 20
GATEWAY_RESTARTS = 2


class SourceBroken(Exception):
    """The source of an upload gave up in the middle."""


class Fleet:
    """Workers, one of which is killed every few seconds and replaced."""

    def __init__(self, broker_url: str, directory: Path) -> None:
        self._broker_url = broker_url
        self._directory = directory
        self._stack = contextlib.ExitStack()
        self._running: list[subprocess.Popen[bytes]] = []
        self._logs: list[Path] = []
        self.kills = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._kill)

    def __enter__(self) -> Fleet:
        self._running = [self._worker() for _ in range(WORKERS)]
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.rest()
        self._stack.close()

    def rest(self) -> None:
        """Kill no more."""
        self._stop.set()
        self._thread.join()

    def taken_items(self) -> tuple[int, int]:
        """Items begun, and the most of one chunk, over all workers that ever were."""
        taken = [
            entry["items"]
            for log in self._logs
            for line in log.read_text(encoding="utf-8").splitlines()
            if line.startswith("{") and (entry := json.loads(line))["event"] == "chunk taken"
        ]
        return sum(taken), max(taken)

    def _worker(self) -> subprocess.Popen[bytes]:
        log = self._directory / f"worker-{len(self._logs)}.log"
        self._logs.append(log)
        flags = ["--broker", self._broker_url, "--lease-s", str(LEASE_S), "--threads", "1", "--log-format", "json"]
        file = self._stack.enter_context(log.open("w"))
        command = ["xlmstream_worker", *flags, f"{MODEL}={DEMO / MODEL}"]
        worker = self._stack.enter_context(processes.process(command, file.fileno()))
        while '"event": "ready"' not in log.read_text(encoding="utf-8"):
            if worker.poll() is not None:
                raise RuntimeError(f"a worker ended:\n{log.read_text(encoding='utf-8')}")
            time.sleep(0.1)
        return worker

    def _kill(self) -> None:
        while not self._stop.wait(KILL_EVERY_S):
            victim = self.kills % WORKERS
            self._running[victim].send_signal(signal.SIGKILL)
            self._running[victim].wait()
            self.kills += 1
            self._running[victim] = self._worker()


def breaking(given: Sequence[tuple[str, str]], count: int, at: int) -> Iterator[JobItem]:
    for index, item in enumerate(items(given, count)):
        if index == at:
            raise SourceBroken
        yield item


def run(given: Sequence[tuple[str, str]], count: int) -> Table:
    chance = random.Random(1)
    address = f"127.0.0.1:{processes.free_port()}"
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        broker = stack.enter_context(EmbeddedBroker(Path(scratch) / "broker"))
        log = stack.enter_context((Path(scratch) / "log").open("w"))

        def gateway() -> tuple[subprocess.Popen[bytes], contextlib.ExitStack]:
            own = stack.enter_context(contextlib.ExitStack())
            command = ["xlmstream_server", "--broker", broker.url, "--listen", address]
            return own.enter_context(processes.process(command, log.fileno())), own

        serving = gateway()
        fleet = stack.enter_context(Fleet(broker.url, Path(scratch)))
        processes.wait_serving(address, [f"model/{MODEL}"], [serving[0]])
        begun = time.perf_counter()
        breaks = sorted(chance.sample(range(count), UPLOAD_BREAKS))
        restarts = {breaks[(place + 1) * UPLOAD_BREAKS // (GATEWAY_RESTARTS + 1)] for place in range(GATEWAY_RESTARTS)}
        for at in [*breaks, count]:
            with Client(address, retry=RetryPolicy(max_attempts=50)) as client:
                job = client.jobs.create("embed", model=MODEL, job_id="chaos", truncation="keep_start")
                with contextlib.suppress(SourceBroken):
                    job.upload(breaking(given, count, at))
            if at in restarts:
                serving[0].kill()
                serving[1].close()
                serving = gateway()
        with Client(address, retry=RetryPolicy(max_attempts=50)) as client:
            job = client.jobs.get("chaos").seal(expected_items=count).wait()
            wall = time.perf_counter() - begun
            fleet.rest()
            if job.state is not JobState.SUCCEEDED:
                raise RuntimeError(f"the job ended {job.state}: {job.info.counts}")
            in_order = [(result.index, result.key) for result in job.results()]
            stored = sorted(result.index for result in job.results(order="completion"))
        missing = count - len(set(in_order))
        wrong = sum(found != (index, f"item-{index}") for index, found in enumerate(in_order))
        taken, largest = fleet.taken_items()
        table = Table(
            f"{count} items of Embed, {WORKERS} workers, everything killed",
            (
                "workers killed",
                "uploads broken",
                "gateway killed",
                "results",
                "missing",
                "wrong place or key",
                "stored twice",
                "begun again",
                "begun again a kill",
                "results/s",
            ),
        )
        table.rows.append(
            (
                str(fleet.kills),
                str(UPLOAD_BREAKS),
                str(GATEWAY_RESTARTS),
                str(len(in_order)),
                str(missing),
                str(wrong),
                str(len(stored) - len(set(stored))),
                str(taken - count),
                f"{(taken - count) / max(fleet.kills, 1):.0f}",
                f"{count / wall:.0f}",
            )
        )
        table.notes.append(
            f"Of two workers one is killed {KILL_EVERY_S:.0f} s after the last one killed serves again (lease "
            f"{LEASE_S:.0f} s). 'Begun again': items taken from the queue beyond the first time; the largest chunk had "
            f"{largest}."
        )
        return table
