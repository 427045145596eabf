"""Jobs on real processes that are killed, cut off and told to end: every item has one result, and few run twice."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest
import redis
from e2e.cutting import cutting
from e2e.service import Service, WorkerProcess, until
from e2e.solo import Solo
from xlmstream import Client, JobItem, JobState, RetryPolicy
from xlmstream.jobs import Job, JobResult

TOKENS = 6
WORDS = ["the", "and", "in", "lord", "abc", "日", "é", "x"]
PROMPTS = [f"{first} {second}" for first in WORDS for second in WORDS]
# What a worker may have begun without a saved result: a chunk's worth.
CHUNK = 256
# What it has in hand: no more than that, of two chunks at most.
IN_HAND = 2 * CHUNK


def items(count: int, special: dict[int, object] | None = None) -> Iterator[JobItem]:
    for index in range(count):
        given = (special or {}).get(index, PROMPTS[index % len(PROMPTS)])
        yield JobItem(f"key {index}", given)


def taken_items(workers: Sequence[WorkerProcess]) -> int:
    """Items that workers have begun, again and again where they were begun again."""
    entries = [entry for worker in workers for entry in worker.entries() if entry["event"] == "chunk taken"]
    return sum(int(str(entry["items"])) for entry in entries)


def computed_items(worker: WorkerProcess) -> int:
    """Items that its engines have computed, or begun to generate: what it wrote down before it was killed."""
    entries = [entry for entry in worker.entries() if ".1." in str(entry.get("execution_id"))]
    generated = {entry["execution_id"] for entry in entries if entry["event"] == "generating"}
    return len(generated) + sum(int(str(entry["sequences"])) for entry in entries if entry["event"] == "encoded")


def saved_items(broker: redis.Redis) -> int:
    """Items of the newest job whose results the broker has: of chunks that have ended, and of those that have not."""
    (index,) = broker.scan_iter("xs:{0}:jobs:*")
    (job,) = (name.decode() for name in broker.zrevrange(index, 0, 0))
    saved = int(broker.hget(f"xs:{{0}}:job:{job}", "succeeded"))
    for part in broker.scan_iter(f"xs:{{0}}:r:{job}.*"):
        done = (broker.hget(part, "tally") or b"").rpartition(b"\n")[2]
        saved += len(done.split(b",")) if done else 0
    return saved


def ids(result: JobResult) -> list[int]:
    return list(result.result.token_ids)


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with Client(service.address) as client:
        yield client


def create(client: Client, **keywords: object) -> Job:
    return client.jobs.create("generate", max_new_tokens=TOKENS, ignore_eos=True, **keywords)


def submit(client: Client, count: int, special: dict[int, object] | None = None) -> Job:
    job = create(client)
    assert job.upload(items(count, special)) == count
    return job.seal(expected_items=count)


class Nurse:
    """Starts a worker whenever the last one has died, until told to stop."""

    def __init__(self, start: Callable[[], WorkerProcess]) -> None:
        self._start = start
        self.workers = [start()]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Nurse:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            if not self.workers[-1].alive:
                self.workers.append(self._start())


def test_nothing_is_missing_or_there_twice_when_workers_gateway_and_upload_break_again_and_again(
    service: Service, solo: Solo
) -> None:
    count, chance = 3000, random.Random(5)
    settings = {"lease_s": 1.0, "step_ms": 8.0}
    fleet = [service.worker(**settings) for _ in range(2)]
    workers, kills = list(fleet), 0
    cuts = [chance.randrange(800, 9_000) for _ in range(8)]
    policy = RetryPolicy(max_attempts=20)
    with cutting(service.address, cuts) as cutter, Client(cutter.address, retry=policy) as client:
        service.wait_serving()
        job = create(client, job_id="chaos")
        # In pieces, each a call of its own, so that workers begin while the upload breaks.
        for end in range(250, count + 1, 250):
            again = client.jobs.get("chaos")
            assert again.upload(items(end)) == end
            if end % 500 == 0:
                victim = kills % 2
                fleet[victim].kill()
                fleet[victim] = service.worker(**settings)
                workers.append(fleet[victim])
                kills += 1
            if end in (1000, 2000):
                service.restart_gateway()
        assert cutter.cut == len(cuts)
        job.seal(expected_items=count)
        fleet[0].kill()
        kills += 1
        job.wait(timeout_s=120)
        assert job.state is JobState.SUCCEEDED
        assert job.info.counts.succeeded == job.info.items_committed == count
        results = list(job.results())
        completed = [result.index for result in job.results(order="completion")]
    assert [(result.index, result.key, result.attempt) for result in results] == [
        (index, f"key {index}", 1) for index in range(count)
    ]
    assert sorted(completed) == list(range(count))
    for result in results[::40]:
        solo.check(PROMPTS[result.index % len(PROMPTS)], ids(result))
    again, computed_again = taken_items(workers) - count, sum(map(computed_items, workers)) - count
    print(f"{kills} workers killed, {again} items handed out again, {computed_again} of them had been computed")
    assert 0 < again <= kills * IN_HAND
    assert 0 <= computed_again <= kills * CHUNK


@pytest.mark.parametrize(("task", "step_ms"), [("embed", 4.0), ("generate", 8.0)])
def test_a_killed_worker_repeats_no_more_than_a_chunk(
    service: Service, client: Client, task: str, step_ms: float
) -> None:
    """One worker after another, each killed while it computes; a last one finishes."""
    count, kills = 3000, 5
    parameters = {"max_new_tokens": TOKENS, "ignore_eos": True} if task == "generate" else {}
    settings = {"lease_s": 0.5, "step_ms": step_ms}
    workers, lost = [service.worker(**settings)], []
    service.wait_serving()
    job = client.jobs.create(task, **parameters)
    job.upload(items(count))
    job.seal(expected_items=count)
    for _ in range(kills):
        until(lambda: computed_items(workers[-1]) > 1.3 * CHUNK, "work on a second chunk")
        workers[-1].kill()
        lost.append(sum(map(computed_items, workers)) - sum(lost) - saved_items(service.redis))
        assert 0 <= lost[-1] <= CHUNK
        workers.append(service.worker(**settings))
    job.wait(timeout_s=120)
    assert job.info.counts.succeeded == count
    assert [result.index for result in job.results()] == list(range(count))
    assert sum(map(computed_items, workers)) - count == sum(lost) > 0
    print(f"computed again, kill by kill: {lost}")


def test_bad_items_fail_alone_and_a_retry_runs_them_and_no_others(service: Service, client: Client) -> None:
    broken = service.worker(defect="zebra")
    service.wait_serving()
    count = 400
    special = {17: "zebra", 130: "the zebra", 390: "zebra", 200: "the " * 300}
    job = submit(client, count, special).wait(timeout_s=60)
    assert job.state is JobState.PARTIALLY_SUCCEEDED
    assert (job.info.counts.succeeded, job.info.counts.failed) == (count - 4, 4)
    assert [(one.reason, one.count) for one in job.info.error_summary] == [("INTERNAL", 3), ("INPUT_TOO_LONG", 1)]
    assert job.info.error_summary[0].sample_index in special
    failed = {result.index: result for result in job.results(only="failed")}
    assert set(failed) == set(special)
    assert "inputs[0].text" in str(failed[200].error)
    broken.kill()
    mended = service.worker()
    job.retry().wait(timeout_s=60)
    assert job.state is JobState.PARTIALLY_SUCCEEDED
    assert (job.info.counts.succeeded, job.info.counts.failed) == (count - 1, 1)
    assert taken_items([mended]) == len(special)
    results = list(job.results())
    assert [result.index for result in results] == list(range(count))
    assert {result.index for result in results if result.attempt == 2} == set(special)
    assert [result.index for result in results if result.error] == [200]


def test_an_item_that_kills_workers_is_found_and_ends_alone(service: Service, client: Client, solo: Solo) -> None:
    count, poison = 200, 77
    with Nurse(lambda: service.worker(lease_s=0.5, poison="zebra")) as nurse:
        service.wait_serving()
        job = submit(client, count, {poison: "the zebra"}).wait(timeout_s=120)
    assert (job.info.counts.succeeded, job.info.counts.failed) == (count - 1, 1)
    assert [(one.reason, one.sample_index) for one in job.info.error_summary] == [("POISONED_INPUT", poison)]
    # With others, alone, in one of 16 parts, and three times by itself.
    assert len(nurse.workers) - 1 <= 6
    for result in list(job.results())[:: count // 10]:
        solo.check(PROMPTS[result.index % len(PROMPTS)], ids(result))


def test_a_worker_told_to_end_stores_what_it_has_and_gives_back_the_rest(service: Service, client: Client) -> None:
    first = service.worker("--drain-grace-s", "0", step_ms=10)
    service.wait_serving()
    count = 600
    job = submit(client, count)
    until(lambda: job.refresh().info.counts.succeeded > 30, "the first results")
    first.signal(signal.SIGTERM)
    until(lambda: not first.alive, "the worker's end")
    assert first.told("leaving")
    begun = taken_items([first])
    second = service.worker()
    job.wait(timeout_s=60)
    assert job.info.counts.succeeded == count
    # What the first had in hand was saved or given back, item by item: nothing that has a result ran again.
    assert taken_items([second]) < count
    assert begun + taken_items([second]) <= count + IN_HAND
    deaths = [entry["deaths"] for entry in second.entries() if entry["event"] == "chunk taken"]
    assert set(deaths) == {0}


def test_a_cancelled_job_ends_within_a_few_steps_and_keeps_its_results(service: Service, client: Client) -> None:
    worker = service.worker(step_ms=40)
    service.wait_serving()
    job = submit(client, 2000)
    until(lambda: job.refresh().info.counts.succeeded > 0, "the first results")
    job.cancel().wait(timeout_s=60)
    assert job.state is JobState.CANCELLED
    counts = job.info.counts
    assert counts.succeeded + counts.skipped == 2000
    until(lambda: worker.told("stopped"), "the worker's word")
    results = list(job.results())
    assert len(results) == counts.succeeded
    assert all(result.error is None for result in results)


def test_a_paused_job_begins_nothing_until_it_is_resumed(service: Service, client: Client) -> None:
    worker = service.worker(step_ms=5, lease_s=0.7)  # less than a chunk takes
    service.wait_serving()
    job = submit(client, 800)
    until(lambda: job.refresh().info.counts.succeeded > 0, "the first results")
    job.pause()
    assert job.state is JobState.PAUSED
    until(lambda: job.refresh().info.counts.running == 0, "the end of what had begun")
    begun = taken_items([worker])
    assert begun == job.info.counts.succeeded < 800
    # A call runs as ever, and nothing of the job begins beside it.
    assert client.generate("the lord", max_new_tokens=TOKENS).text
    assert taken_items([worker]) == begun
    job.resume().wait(timeout_s=60)
    assert job.state is JobState.SUCCEEDED
    assert taken_items([worker]) == 800
    assert not worker.told("fenced")
