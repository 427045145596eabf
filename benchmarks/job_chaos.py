"""A job while everything around it breaks: is every result there once, and how much ran twice?

    python -m benchmarks.job_chaos [--tasks embed,generate] [--items N] [--kill-every-s S] [--sentences FILE]

Two workers, of which one is killed with SIGKILL again and again and replaced; an upload that breaks off at 20 random
items while the job runs, each time continued by a new client; a gateway that is killed twice. Everything runs as the
commands do, each a process of its own. What workers have computed is read from their logs, which outlive them.
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import redis
from xlmstream import Client, JobItem, JobState, RetryPolicy
from xlmstream.jobs import Job
from xlmstream_server.broker import job_wire
from xlmstream_server.broker.embedded import EmbeddedBroker

from benchmarks import processes
from benchmarks.job_items import DEMO, MODELS, PARAMETERS, PUBLISHED, items, sentences, texts_of
from benchmarks.report import Table, finish, parser

WORKERS = 2
LEASE_S = 2.0
UPLOAD_BREAKS = 20
GATEWAY_RESTARTS = 2
# The upload goes on when so many items, or fewer, wait or run: it lasts as long as the job.
BACKLOG = 5_000
PATIENT = RetryPolicy(max_attempts=50)


class SourceBroken(Exception):
    """The source of an upload gave up in the middle."""


@dataclass(frozen=True)
class Work:
    """What the logs of all workers tell.

    Attributes:
        taken: items of the chunks that were taken.
        largest: most items of one chunk.
        computed: items that were computed, or that had begun to generate.
        alone_s: how long each chunk was held that ran alone, behind a worker's death.
    """

    taken: int
    largest: int
    computed: int
    alone_s: Sequence[float]

    @classmethod
    def of(cls, logs: Sequence[Path]) -> Work:
        taken, computed, alone_s = [], 0, []
        for log in logs:
            generating, alone = set(), set()
            for entry in _entries(log):
                if entry["event"] == "chunk taken":
                    taken.append(int(str(entry["items"])))
                    alone |= {entry["chunk_id"]} if entry["alone"] else set()
                elif entry["event"] == "chunk ended" and entry["chunk_id"] in alone:
                    alone_s.append(float(str(entry["held_ms"])) / 1e3)
                elif entry["event"] == "encoded":
                    computed += int(str(entry["sequences"]))
                elif entry["event"] == "generating":
                    generating.add(entry["execution_id"])
            computed += len(generating)
        return cls(sum(taken), max(taken), computed, alone_s)


def _entries(log: Path) -> Iterator[Mapping[str, object]]:
    with log.open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("{") and line.endswith("}\n"):
                yield json.loads(line)


class Fleet:
    """Workers, one of which is killed every few seconds and replaced."""

    def __init__(self, broker_url: str, model: str, kill_every_s: float, directory: Path) -> None:
        self._broker_url = broker_url
        self._model = model
        self._kill_every_s = kill_every_s
        self._directory = directory
        self._stack = contextlib.ExitStack()
        self._running: list[subprocess.Popen[bytes]] = []
        self.logs: list[Path] = []
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

    def _worker(self) -> subprocess.Popen[bytes]:
        log = self._directory / f"worker-{len(self.logs)}.log"
        self.logs.append(log)
        flags = ["--broker", self._broker_url, "--lease-s", str(LEASE_S), "--threads", "1"]
        flags += ["--log-format", "json", "--log-level", "debug", f"{self._model}={DEMO / self._model}"]
        file = self._stack.enter_context(log.open("w"))
        worker = self._stack.enter_context(processes.process(["xlmstream_worker", *flags], file.fileno()))
        while '"event": "ready"' not in log.read_text(encoding="utf-8"):
            if worker.poll() is not None:
                raise RuntimeError(f"a worker ended:\n{log.read_text(encoding='utf-8')}")
            time.sleep(0.1)
        return worker

    def _kill(self) -> None:
        while not self._stop.wait(self._kill_every_s):
            victim = self.kills % WORKERS
            self._running[victim].send_signal(signal.SIGKILL)
            self._running[victim].wait()
            self.kills += 1
            self._running[victim] = self._worker()


class Gateway:
    """One gateway at one address, which can be killed and started again."""

    def __init__(self, broker_url: str, log: int) -> None:
        self.address = f"127.0.0.1:{processes.free_port()}"
        self._command = ["xlmstream_server", "--broker", broker_url, "--listen", self.address]
        self._log = log
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Gateway:
        self.process = self._stack.enter_context(processes.process(self._command, self._log))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def restart(self) -> None:
        self.process.kill()
        self._stack.close()
        self.__enter__()


def breaking(given: Sequence[tuple[str, str]], count: int, at: int) -> Iterator[JobItem]:
    """The items, up to number `at`."""
    for index, item in enumerate(items(given, count)):
        if index == at:
            raise SourceBroken
        yield item


def tell(job: Job, begun: float, fleet: Fleet) -> None:
    counts = job.refresh().info.counts
    seconds = time.perf_counter() - begun
    print(
        f"{seconds:6.0f} s  {counts.succeeded:7} results  {counts.running:4} run  {counts.pending:6} wait  "
        f"{fleet.kills:3} workers killed",
        file=sys.stderr,
        flush=True,
    )


def follow(job: Job, begun: float, fleet: Fleet, backlog: int) -> None:
    """Until the job has so few items left, or has ended."""
    while not job.refresh().ended and job.info.counts.pending + job.info.counts.running > backlog:
        tell(job, begun, fleet)
        time.sleep(2.0)


def upload_and_wait(task: str, given: Sequence[tuple[str, str]], count: int, gateway: Gateway, fleet: Fleet) -> float:
    """Have the job done; returns how long it took, in seconds."""
    breaks = sorted(random.Random(1).sample(range(count), UPLOAD_BREAKS))
    restarts = {breaks[(place + 1) * UPLOAD_BREAKS // (GATEWAY_RESTARTS + 1)] for place in range(GATEWAY_RESTARTS)}
    begun = time.perf_counter()
    for at in [*breaks, count]:
        with Client(gateway.address, retry=PATIENT) as client:
            job = client.jobs.create(task, model=MODELS[task], job_id="chaos", **PARAMETERS[task])
            follow(job, begun, fleet, BACKLOG)
            with contextlib.suppress(SourceBroken):
                job.upload(breaking(given, count, at))
        if at in restarts:
            gateway.restart()
    with Client(gateway.address, retry=PATIENT) as client:
        job = client.jobs.get("chaos").seal(expected_items=count)
        follow(job, begun, fleet, 0)
        job.wait()
    return time.perf_counter() - begun


def stored_twice(broker_url: str) -> int:
    """Results in the broker beyond one for each item."""
    with redis.Redis.from_url(broker_url) as broker:
        (key,) = broker.scan_iter("xs:*:job:*:out", count=10_000)
        stored = [job_wire.index_of(result) for part in broker.hvals(key) for result in job_wire.split(part)]
    return len(stored) - len(set(stored))


def run(task: str, given: Sequence[tuple[str, str]], count: int, kill_every_s: float) -> Sequence[str]:
    """The job of one task; returns its row of the table."""
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        broker = stack.enter_context(EmbeddedBroker(Path(scratch) / "broker"))
        log = stack.enter_context((Path(scratch) / "log").open("w"))
        gateway = stack.enter_context(Gateway(broker.url, log.fileno()))
        fleet = stack.enter_context(Fleet(broker.url, MODELS[task], kill_every_s, Path(scratch)))
        processes.wait_serving(gateway.address, [f"model/{MODELS[task]}"], [gateway.process])
        wall = upload_and_wait(task, given, count, gateway, fleet)
        fleet.rest()
        with Client(gateway.address, retry=PATIENT) as client:
            job = client.jobs.get("chaos")
            if job.state is not JobState.SUCCEEDED:
                raise RuntimeError(f"the job ended {job.state}: {job.info.counts}")
            found = [(result.index, result.key) for result in job.results()]
        work, kills = Work.of(fleet.logs), max(fleet.kills, 1)
        return (
            task,
            str(fleet.kills),
            str(UPLOAD_BREAKS),
            str(GATEWAY_RESTARTS),
            str(len(found)),
            str(count - len(set(found))),
            str(sum(one != (index, f"item-{index}") for index, one in enumerate(found))),
            str(stored_twice(broker.url)),
            f"{work.taken - count} ({(work.taken - count) / kills:.0f} a kill)",
            f"{work.computed - count} ({(work.computed - count) / kills:.0f} a kill)",
            str(work.largest),
            f"{sum(work.alone_s) / max(len(work.alone_s), 1):.1f} (at most {max(work.alone_s, default=0.0):.1f})",
            f"{count / wall:.0f}",
        )


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--items", type=int, default=100_000, metavar="N", help="default: 100000")
    options.add_argument("--tasks", default="embed,generate", metavar="NAMES", help="default: embed,generate")
    options.add_argument("--kill-every-s", type=float, default=5.0, metavar="S", help="default: 5")
    options.add_argument("--sentences", type=Path, default=PUBLISHED, metavar="FILE", help="JSON lines: lang, text")
    arguments = options.parse_args()
    table = Table(
        f"{arguments.items} items, {WORKERS} workers, everything killed",
        (
            "task",
            "workers killed",
            "uploads broken",
            "gateway killed",
            "results",
            "missing",
            "wrong place or key",
            "stored twice",
            "handed out again",
            "computed again",
            "largest chunk",
            "chunk alone, s",
            "results/s",
        ),
    )
    given = sentences(arguments.sentences)
    for task in filter(None, arguments.tasks.split(",")):
        print(f"{task}:", file=sys.stderr, flush=True)
        table.rows.append(run(task, texts_of(task, given), arguments.items, arguments.kill_every_s))
    table.notes.append(
        f"Of two workers one is killed {arguments.kill_every_s:g} s after the last one killed serves again (lease "
        f"{LEASE_S:g} s). 'Handed out again': items of chunks that were taken beyond the first time. 'Computed again': "
        "of these what a worker had computed, or had begun to generate, when it was killed; at most 256 a kill. 'Chunk "
        "alone': how long a chunk was held that ran alone because a worker had died with it."
    )
    finish([table], arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
