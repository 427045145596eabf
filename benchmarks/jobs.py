"""Jobs: what an upload costs gateway and broker, how fast items run and results are read, and what calls feel of it.

    python -m benchmarks.jobs [--items N] [--tasks embed,generate] [--sentences FILE] [--json FILE]

1. Upload of N items to a paused job: items/s, CPU microseconds an item of client and gateway beside the parse of one
   such item, bytes an item in the broker beside its bytes on the wire.
2. The job runs on one worker with one compute thread: results/s; then all results are read.
3. Calls of the same task, one after another with pauses: before the job, and while it runs.

`job_chaos` does the same while everything breaks. Client and all processes share the machine: CPU seconds count, rates
and latencies are noisy.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import redis
from xlmstream import Client, JobState
from xlmstream.jobs import Job
from xlmstream.v1.job_pb2 import JobItem as WireItem

from benchmarks import job_batches, processes
from benchmarks.job_items import (
    DEMO,
    MODELS,
    NEW_TOKENS,
    PARAMETERS,
    PROMPT_WORDS,
    PUBLISHED,
    items,
    sentences,
    texts_of,
)
from benchmarks.report import Table, finish, parser

SLOTS = 32
CALLS = 200
PAUSE_S = 0.05


@dataclass(frozen=True)
class Upload:
    wall_s: float
    client_s: float
    gateway_s: float
    broker_s: float
    wire_bytes: int
    broker_bytes: int
    parse_s: float


@dataclass(frozen=True)
class Latencies:
    """Of calls, in milliseconds."""

    p50: float
    p95: float
    most: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latencies:
        ordered = sorted(seconds)
        return cls(1e3 * statistics.median(ordered), 1e3 * ordered[int(0.95 * len(ordered))], 1e3 * ordered[-1])


@dataclass(frozen=True)
class Run:
    upload: Upload
    alone: Latencies
    during: Latencies
    batch_ms: float
    beside_s: float
    beside_items: int
    rest_s: float
    rest_items: int
    worker_s: float
    read_s: float
    read_gateway_s: float
    result_bytes: int


def measure_upload(service: processes.Service, job: Job, given: Sequence[tuple[str, str]], count: int) -> Upload:
    with redis.Redis.from_url(service.broker_url) as broker:
        own = psutil.Process()
        before, own_before = service.cpu_s(), processes.cpu_s(own)
        begun = time.perf_counter()
        stored = job.upload(items(given, count))
        wall = time.perf_counter() - begun
        after, own_after = service.cpu_s(), processes.cpu_s(own)
        if stored != count:
            raise RuntimeError(f"{stored} of {count} items were stored")
        kept = memory_of_jobs(broker)
    wire = [WireItem(key=one.key, embed=one.input).SerializeToString() for one in items(given, min(count, 5_000))]
    return Upload(
        wall,
        own_after - own_before,
        after["gateway"] - before["gateway"],
        after["broker"] - before["broker"],
        round(sum(map(len, wire)) / len(wire) * count),
        kept,
        min(parse_s(wire) for _ in range(3)),
    )


def memory_of_jobs(broker: redis.Redis) -> int:
    """Bytes of the keys of all jobs, by the broker's own count of each."""
    return sum(broker.memory_usage(key, samples=0) for key in broker.scan_iter("xs:*:job:*", count=10_000))


def parse_s(wire: Sequence[bytes]) -> float:
    """CPU seconds of parsing one item, on average."""
    begun = time.process_time()
    for one in wire:
        WireItem.FromString(one)
    return (time.process_time() - begun) / len(wire)


def latencies(call: Callable[[int], object], count: int) -> Latencies:
    taken = []
    for number in range(count):
        begun = time.perf_counter()
        call(number)
        taken.append(time.perf_counter() - begun)
        time.sleep(PAUSE_S)
    return Latencies.of(taken)


def run_task(task: str, given: Sequence[tuple[str, str]], count: int) -> Run:
    given = texts_of(task, given)
    name, parameters = MODELS[task], PARAMETERS[task]
    with (
        processes.service([f"{name}={DEMO / name}"], slots=SLOTS) as service,
        Client(service.address) as client,
        redis.Redis.from_url(service.broker_url) as broker,
    ):

        def call(number: int) -> object:
            language, text = given[number % len(given)]
            return getattr(client, task)(text, language=language, **parameters)

        latencies(call, 20)
        alone = latencies(call, CALLS)
        job = client.jobs.create(task, job_id=f"bench-{task}", **parameters)
        job.pause()
        upload = measure_upload(service, job, given, count)
        job.seal(expected_items=count).resume()
        worker = processes.cpu_s(service.processes["worker"])
        begun = time.perf_counter()
        during = latencies(call, CALLS)
        beside_s, beside = time.perf_counter() - begun, job.refresh().info.counts.succeeded
        if job.ended:
            raise RuntimeError("the job had ended before the calls beside it: use more --items")
        job.wait()
        rest_s = time.perf_counter() - begun - beside_s
        worker = processes.cpu_s(service.processes["worker"]) - worker
        if job.state is not JobState.SUCCEEDED or job.info.counts.succeeded != count:
            raise RuntimeError(f"the job ended {job.state}: {job.info.counts}")
        kept = memory_of_jobs(broker) - upload.broker_bytes
        gateway, begun = processes.cpu_s(service.processes["gateway"]), time.perf_counter()
        indices = [(result.index, result.key) for result in job.results()]
        read_s = time.perf_counter() - begun
        gateway = processes.cpu_s(service.processes["gateway"]) - gateway
        if indices != [(index, f"item-{index}") for index in range(count)]:
            raise RuntimeError("results are missing, there twice or out of order")
        batch = job_batches.batch_ms(task, DEMO / name, SLOTS)
        rest = count - beside
        return Run(upload, alone, during, batch, beside_s, beside, rest_s, rest, worker, read_s, gateway, kept)


def upload_table(runs: dict[str, Run], count: int) -> Table:
    table = Table(
        f"Upload of {count} items to a paused job",
        (
            "task",
            "items/s",
            "client us/item",
            "gateway us/item",
            "broker us/item",
            "parse of one item us",
            "gateway / parse",
            "wire bytes/item",
            "broker bytes/item",
            "broker / wire",
        ),
    )
    for task, run in runs.items():
        up = run.upload
        table.rows.append(
            (
                task,
                f"{count / up.wall_s:.0f}",
                f"{1e6 * up.client_s / count:.1f}",
                f"{1e6 * up.gateway_s / count:.1f}",
                f"{1e6 * up.broker_s / count:.1f}",
                f"{1e6 * up.parse_s:.2f}",
                f"{up.gateway_s / count / up.parse_s:.1f}",
                f"{up.wire_bytes / count:.0f}",
                f"{up.broker_bytes / count:.0f}",
                f"{up.broker_bytes / up.wire_bytes:.3f}",
            )
        )
    table.notes.append(
        "Targets: gateway / parse at most 5, broker / wire at most 1.15 (all keys of the job, counted by the broker)."
    )
    return table


def run_table(runs: dict[str, Run], count: int) -> Table:
    table = Table(
        f"{count} items on one worker, one compute thread",
        (
            "task",
            "results/s beside calls",
            "results/s after them",
            "worker CPU ms/item",
            "reading: results/s",
            "reading: gateway us/result",
            "result bytes/item in the broker",
        ),
    )
    for task, run in runs.items():
        table.rows.append(
            (
                task,
                f"{run.beside_items / run.beside_s:.0f}",
                f"{run.rest_items / run.rest_s:.0f}",
                f"{1e3 * run.worker_s / count:.2f}",
                f"{count / run.read_s:.0f}",
                f"{1e6 * run.read_gateway_s / count:.1f}",
                f"{run.result_bytes / count:.0f}",
            )
        )
    table.notes.append(
        f"Embed: whole sentences. Generate: {NEW_TOKENS} new tokens from their first {PROMPT_WORDS} words. "
        "Every index and key was read back once, in order."
    )
    return table


def latency_table(runs: dict[str, Run]) -> Table:
    table = Table(
        f"{CALLS} calls of one input, {1e3 * PAUSE_S:.0f} ms apart",
        ("task", "", "p50 ms", "p95 ms", "max ms", "p95 / p95 alone", "one batch ms", "p95 of at most, ms"),
    )
    for task, run in runs.items():
        for name, one in (("alone", run.alone), ("during the job", run.during)):
            ratio = one.p95 / run.alone.p95
            figures = [f"{figure:.1f}" for figure in (one.p50, one.p95, one.most)]
            most = 2 * run.alone.p95 + run.batch_ms
            table.rows.append((task, name, *figures, f"{ratio:.2f}", f"{run.batch_ms:.1f}", f"{most:.1f}"))
    table.notes.append(
        "Target: at most 2x p95 alone plus one batch of the engine: of Embed a batch of bulk work, of Generate a step "
        "of all slots, each the median of wall times in one process beside the idle service."
    )
    return table


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--items", type=int, default=100_000, metavar="N", help="default: 100000")
    options.add_argument("--tasks", default="embed,generate", metavar="NAMES", help="default: embed,generate")
    options.add_argument("--sentences", type=Path, default=PUBLISHED, metavar="FILE", help="JSON lines: lang, text")
    arguments = options.parse_args()
    given = sentences(arguments.sentences)
    tasks = [task for task in arguments.tasks.split(",") if task]
    runs = {task: run_task(task, given, arguments.items) for task in tasks}
    tables = [upload_table(runs, arguments.items), run_table(runs, arguments.items), latency_table(runs)]
    finish(tables, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
