"""Random histories of jobs against a real broker: crashes, zombies, requests and replies lost at any call."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import redis
from broker.job_play import item, job_keys, outcome, read, spec
from broker.play import MODEL, ROOT, FlakyGateway, FlakyLink, check_clean, envelope, lapse, script_of, worker_on
from effort import examples
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from xlmstream.v1.job_pb2 import (
    JOB_RESULT_ORDER_COMPLETION,
    JOB_RESULT_ORDER_INPUT,
    JOB_STATE_ACCEPTING,
    JOB_STATE_CANCELLED,
    JOB_STATE_CANCELLING,
    JOB_STATE_EXPIRED,
    JOB_STATE_FAILED,
    JOB_STATE_PARTIALLY_SUCCEEDED,
    JOB_STATE_RUNNING,
    JOB_STATE_SUCCEEDED,
    JobResult,
    JobResultOrder,
)
from xlmstream_server.broker import (
    BrokerDown,
    Fenced,
    ItemResult,
    JobLimits,
    JobRecord,
    JobStateForbids,
    Output,
    Stop,
    TakenChunk,
    UploadGap,
    WorkerBroker,
    job_wire,
)

T = TypeVar("T")
LOSE = st.sampled_from([None, None, None, "request", "reply", "reply"])
PICK = st.integers(0, 1000)
OTHER_MODEL = "other@1"
LIMITS = JobLimits(chunk_items=5, chunk_tokens=12)


@dataclass
class Known:
    """What a job's owner knows of it."""

    tenant: str
    job_id: str
    items: int = 0
    # Items that were skipped when it was last retried: no retry runs them.
    skipped: int = 0
    # Outcomes that workers gave, by attempt and index.
    given: dict[tuple[int, int], list[bytes]] = field(default_factory=dict)
    # Outcomes that were read.
    read: dict[tuple[int, int], bytes] = field(default_factory=dict)


def said(result: JobResult) -> bytes:
    """The outcome alone."""
    bare = JobResult()
    bare.CopyFrom(result)
    bare.ClearField("key")
    bare.ClearField("attempt")
    return bare.SerializeToString()


class Worker:
    """A worker process: the chunks it believes it runs, and the items of each that have no result."""

    def __init__(self, url: str, name: str) -> None:
        self.link = FlakyLink(url)
        self.broker: WorkerBroker = worker_on(self.link, name, (MODEL, OTHER_MODEL))
        self.chunks: dict[str, tuple[TakenChunk, list[int]]] = {}
        self.requests: list[Output] = []

    def call(self, lose: str | None, call: Callable[[], T]) -> T:
        self.link.lose = lose
        try:
            return call()
        except BrokerDown:
            return call()


class Jobs(RuleBasedStateMachine):
    url: str

    @initialize()
    def start(self) -> None:
        self.client = redis.Redis.from_url(self.url)
        self.client.flushdb()
        self.runner = asyncio.Runner()
        self.gateway = self.runner.run(FlakyGateway.connect(self.url, job_limits=LIMITS))
        self.known: dict[str, Known] = {}
        self.workers: list[Worker] = []
        self.zombies: list[Worker] = []
        self.lives = self.results = 0
        for _ in range(2):
            self.worker_starts()
        self.creates(0, None)
        self.uploads(0, None, 7, 0, False)

    def run(self, lose: str | None, call: Callable[[], Awaitable[T]]) -> T:
        async def calling() -> T:
            self.gateway.lose = lose
            try:
                return await call()
            except BrokerDown:
                return await call()

        return self.runner.run(calling())

    def pick_job(self, pick: int) -> Known:
        return list(self.known.values())[pick % len(self.known)]

    def record(self, known: Known) -> JobRecord:
        return self.run(None, lambda: self.gateway.jobs.get(known.tenant, known.job_id))

    # ---------------------------------------------------------------- owners

    @rule(pick=PICK, lose=LOSE)
    def creates(self, pick: int, lose: str | None) -> None:
        """A new job, or one that exists."""
        tenant, job_id = f"tenant|{pick % 2}", f"job-{pick % 4}"
        asked = spec(job_id, tenant, model=(MODEL, OTHER_MODEL)[pick % 2], max_failed=6 if pick % 4 == 3 else None)
        record, joined = self.run(lose, lambda: self.gateway.jobs.create(asked))
        assert joined == (lose == "reply" or job_id in self.known)
        self.known.setdefault(job_id, Known(tenant, job_id))
        assert record.spec == asked

    @rule(pick=PICK, lose=LOSE, n=st.integers(1, 13), back=st.integers(0, 3), gap=st.booleans())
    @precondition(lambda self: self.known)
    def uploads(self, pick: int, lose: str | None, n: int, back: int, gap: bool) -> None:
        known, jobs = self.pick_job(pick), self.gateway.jobs
        first = known.items + 1 if gap and pick % 3 == 0 else max(0, known.items - back)
        items, costs = [item(i) for i in range(first, first + n)], [1 + i % 3 for i in range(n)]
        record = self.record(known)
        try:
            committed = self.run(lose, lambda: jobs.upload(known.tenant, known.job_id, first, items, costs))
        except UploadGap:
            assert first > known.items
        except JobStateForbids:
            assert record.sealed or record.ended or self.ending(known)
        else:
            closed = record.sealed or record.state >= JOB_STATE_CANCELLING
            assert not closed or first + n <= known.items, "a job that takes nothing more has taken items"
            known.items = max(known.items, first + n)
            assert committed == known.items

    def ending(self, known: Known) -> bool:
        return self.record(known).state >= JOB_STATE_CANCELLING  # and what follows it

    @rule(pick=PICK, lose=LOSE)
    @precondition(lambda self: self.known)
    def seals(self, pick: int, lose: str | None) -> None:
        known, jobs = self.pick_job(pick), self.gateway.jobs
        self.run(lose, lambda: jobs.seal(known.tenant, known.job_id, known.items))

    @rule(
        pick=PICK, lose=LOSE, verb=st.sampled_from(["pause", "resume", "resume", "cancel", "retry", "retry", "delete"])
    )
    @precondition(lambda self: self.known)
    def changes(self, pick: int, lose: str | None, verb: str) -> None:
        if verb != "cancel" or pick % 3 == 0:  # not too often
            self.change(self.pick_job(pick), lose, verb)

    def change(self, known: Known, lose: str | None, verb: str) -> None:
        jobs, before = self.gateway.jobs, self.record(known)
        try:
            match verb:
                case "pause":
                    self.run(lose, lambda: jobs.pause(known.tenant, known.job_id))
                case "resume":
                    self.run(lose, lambda: jobs.resume(known.tenant, known.job_id))
                case "cancel":
                    self.run(lose, lambda: jobs.cancel(known.tenant, known.job_id))
                case "retry":
                    key = f"retry {before.attempt}"
                    after = self.run(lose, lambda: jobs.retry(known.tenant, known.job_id, key))
                    begins = before.ended and before.failed > 0
                    assert after.attempt == before.attempt + begins
                    if begins:
                        assert (after.pending, after.failed, after.errors) == (before.failed, 0, ())
                        known.skipped = before.skipped
                case "delete":
                    if lose != "reply":  # told twice, the second finds nothing
                        self.run(lose, lambda: jobs.delete(known.tenant, known.job_id))
                        assert before.ended
                        del self.known[known.job_id]
        except JobStateForbids:
            if verb in ("retry", "delete"):
                assert not before.ended
            else:
                assert verb in ("pause", "resume")
                assert before.state >= JOB_STATE_CANCELLING

    @rule(
        pick=PICK,
        lose=LOSE,
        share=st.integers(0, 6),
        again=st.booleans(),
        given_back=st.booleans(),
        then=st.sampled_from(["pause", "cancel", "cancel", "upload", "retry", "killer"]),
    )
    @precondition(lambda self: self.known and self.workers)
    def something_happens_half_way(
        self, pick: int, lose: str | None, share: int, again: bool, given_back: bool, then: str
    ) -> None:
        """What chance seldom comes to: of a job, or of its retry, some is done, some runs and some waits."""
        known = self.pick_job(pick)
        if self.ending(known) and not again:
            self.comes_to_its_end(known, pick)
            if self.record(known).ended:
                self.change(known, None, "delete")
            number = int(known.job_id.removeprefix("job-"))
            self.creates(number, None)
            pick = list(self.known).index(known.job_id)
            known = self.pick_job(pick)
        for _ in range(2):
            self.uploads(pick, None, 13, 0, False)
        if again:
            self.comes_to_its_end(known, pick)
            self.change(known, lose, "retry")
        self.take_chunks(pick, None, 3)
        self.step(pick, None, share, True)
        if given_back:
            self.handoff(pick, None)
        match then:
            case "pause":
                self.take_chunks(pick, None, 2)
                self.handoff(pick, None)
                self.change(known, lose, "pause")
                self.take_chunks(pick, None, 3)
                self.change(known, lose, "resume")
            case "cancel":
                self.change(known, lose, "cancel")
                self.uploads(pick, lose, 3, 0, False)
            case "upload":
                self.uploads(pick, lose, 9, 2, False)
            case "retry":
                self.comes_to_its_end(known, pick)
                self.change(known, lose, "retry")
            case "killer":
                self.a_killer_is_among_them([share, 0, 0, share, 0, 0, 0])

    def comes_to_its_end(self, known: Known, pick: int) -> None:
        """As far as one worker gets."""
        self.run(None, lambda: self.gateway.jobs.seal(known.tenant, known.job_id))
        if not self.ending(known):
            self.change(known, None, "resume")
        for number in range(len(self.workers)):
            self.handoff(number, None)
        self.all_is_quiet(pick, None)

    @rule(pick=PICK, lose=LOSE)
    @precondition(lambda self: self.known)
    def time_runs_out(self, pick: int, lose: str | None) -> None:
        known = self.pick_job(pick)
        if pick % 4 or self.record(known).ended:
            return
        for member in self.client.zrange(f"{ROOT}ends", 0, -1):
            if (
                self.client.hget(f"{ROOT}job:{member[:28].decode()}", "spec")
                == self.record(known).spec.SerializeToString()
            ):
                self.client.zadd(f"{ROOT}ends", {member: 1})
        self.run(lose, lambda: self.gateway.jobs.sweep(self.gateway._run))

    @rule(pick=PICK, n=st.integers(1, 9), completion=st.booleans())
    @precondition(lambda self: self.known)
    def reads(self, pick: int, n: int, completion: bool) -> None:
        known = self.pick_job(pick)
        self.read(known, JOB_RESULT_ORDER_COMPLETION if completion else JOB_RESULT_ORDER_INPUT, n)

    def read(self, known: Known, order: JobResultOrder.ValueType, n: int) -> list[JobResult]:
        reading = read(self.gateway.jobs, order, tenant=known.tenant, job_id=known.job_id, max_results=n, max_bytes=400)
        found = self.runner.run(reading)
        indices = [result.index for result in found]
        assert len(set(indices)) == len(indices), "an index came twice"
        if order == JOB_RESULT_ORDER_INPUT:
            assert indices == sorted(indices)
            record = self.record(known)
            if not record.ended and not record.skipped:
                assert indices == [*range(len(indices))], "read over an item that has not ended"
        for result in found:
            assert result.key == f"key {result.index}"
            at = (result.attempt, result.index)
            assert known.read.setdefault(at, said(result)) == said(result), "a result has changed"
            if "POISONED" not in str(result.error):
                assert said(result) in known.given[at]
        return found

    # ---------------------------------------------------------------- workers

    @rule()
    @precondition(lambda self: len(self.workers) < 3)
    def worker_starts(self) -> None:
        self.lives += 1
        self.workers.append(Worker(self.url, f"w{self.lives}"))

    @rule(pick=PICK, frozen=st.booleans())
    @precondition(lambda self: len(self.workers) > 1)
    def worker_dies(self, pick: int, frozen: bool) -> None:
        worker = self.workers.pop(pick % len(self.workers))
        lapse(self.client, worker.broker)
        if frozen:
            self.zombies.append(worker)

    @rule(shares=st.lists(st.integers(0, 2), min_size=1, max_size=12))
    def a_killer_is_among_them(self, shares: list[int]) -> None:
        """Worker after worker dies with what it has taken, with or without progress."""
        for worker in self.workers:
            lapse(self.client, worker.broker)
        self.workers.clear()
        for share in shares:
            self.worker_starts()
            self.reap(0, None)
            self.take_chunks(0, None, 1)
            if share:
                self.advance(self.workers[0], None, share, late=True)
            lapse(self.client, self.workers.pop().broker)
        self.worker_starts()

    @rule(pick=PICK, lose=LOSE)
    @precondition(lambda self: self.workers)
    def all_is_quiet(self, pick: int, lose: str | None) -> None:
        """A worker has the time to do all there is."""
        for _ in range(8):
            self.reap(pick, lose)
            self.take_chunks(pick, None, 2)
            self.step(pick, None, 6, False)

    @rule(lose=LOSE, share=PICK)
    @precondition(lambda self: self.zombies)
    def zombie_wakes(self, lose: str | None, share: int) -> None:
        zombie = self.zombies.pop()
        reaped = self.client.zscore(f"{ROOT}ws", zombie.broker.life) is None
        try:
            self.advance(zombie, lose, share, late=True)
            assert not reaped, "a reaped worker published"
            zombie.broker.renew()
        except Fenced:
            assert reaped
            zombie.chunks.clear()
            zombie.requests.clear()
            zombie.broker.begin()
        self.workers.append(zombie)

    @rule(pick=PICK, lose=LOSE, n=st.integers(1, 3))
    @precondition(lambda self: self.workers)
    def take_chunks(self, pick: int, lose: str | None, n: int) -> None:
        worker = self.workers[pick % len(self.workers)]
        taken = worker.call(lose, lambda: worker.broker.take_chunks(n))
        assert len(taken) <= n
        for one in taken:
            assert one.chunk_id not in worker.chunks, "given twice"
            assert one.items
            assert not one.alone or (len(taken) == 1 and not worker.chunks and not worker.requests)
            known = self.known[one.spec.job_id]
            assert self.record(known).state in (JOB_STATE_ACCEPTING, JOB_STATE_RUNNING)
            for each in one.items:
                assert each.item.SerializeToString() == item(each.index)
                assert (one.attempt, each.index) not in known.read, "what has its result is run again"
            worker.chunks[one.chunk_id] = (one, [each.index for each in one.items])

    @rule(pick=PICK, lose=LOSE)
    @precondition(lambda self: self.workers)
    def a_request_runs(self, pick: int, lose: str | None) -> None:
        """What is no job goes its way beside them."""
        worker = self.workers[pick % len(self.workers)]
        asked = envelope(self.gateway, length=1)
        self.run(None, lambda: self.gateway.submit(asked))
        for one in worker.call(lose, lambda: worker.broker.take(2)):
            assert not worker.broker.held_chunks or not one.alone
            worker.requests.append(
                Output(one.envelope.execution_id, tuple(script_of(one.envelope)[len(one.journal) :]))
            )

    @rule(pick=PICK, lose=LOSE, share=PICK, late=st.booleans())
    @precondition(lambda self: self.workers)
    def step(self, pick: int, lose: str | None, share: int, late: bool) -> None:
        self.advance(self.workers[pick % len(self.workers)], lose, share, late=late)

    def advance(self, worker: Worker, lose: str | None, share: int, *, late: bool) -> None:
        """Results of some items of every chunk, in any order; late: the last ones lie some time back."""
        results: list[ItemResult] = []
        for name, (chunk, left) in list(worker.chunks.items()):
            left.sort(key=lambda index: (index * 7919 + share) % 13)
            for index in [left.pop() for _ in range(min(len(left), share % 7))]:
                self.results += 1
                result = outcome(index, bad=index % 5 == 0 and chunk.attempt < 3)
                if result.HasField("embed"):
                    result.embed.usage.completion_tokens = self.results  # tells it from every other
                given = self.known[chunk.spec.job_id].given if chunk.spec.job_id in self.known else {}
                given.setdefault((chunk.attempt, index), []).append(said(result))
                results.append(ItemResult(name, result))
            if not left:
                del worker.chunks[name]
        if late:
            for row in worker.broker._chunks.values():
                row.unsaved_since = row.unsaved_since and 0.0
        outputs, worker.requests = worker.requests, []
        worker.link.lose = lose
        try:
            published = worker.broker.publish(outputs, results)
        except BrokerDown:
            published = worker.broker.publish([])
        for name, stop in published.stop.items():
            if name in worker.chunks:
                assert stop in (Stop.CANCELLED, Stop.LOST)
                del worker.chunks[name]
        assert set(worker.chunks) == set(worker.broker.held_chunks)

    @rule(pick=PICK, lose=LOSE)
    @precondition(lambda self: self.workers)
    def reap(self, pick: int, lose: str | None) -> None:
        worker = self.workers[pick % len(self.workers)]
        worker.call(lose, worker.broker.reap)

    @rule(pick=PICK, lose=LOSE)
    @precondition(lambda self: self.workers)
    def handoff(self, pick: int, lose: str | None) -> None:
        worker = self.workers[pick % len(self.workers)]
        worker.call(lose, lambda: worker.broker.handoff(list(worker.chunks)))
        worker.chunks.clear()

    @rule(pick=PICK, lose=LOSE)
    @precondition(lambda self: len(self.workers) > 1)
    def worker_stops(self, pick: int, lose: str | None) -> None:
        worker = self.workers.pop(pick % len(self.workers))
        worker.link.lose = lose
        worker.broker.close()
        if lose:
            lapse(self.client, worker.broker)

    # ---------------------------------------------------------------- what holds

    @invariant()
    def counts_add_up(self) -> None:
        if not hasattr(self, "client"):
            return
        for known in self.known.values():
            record = self.record(known)
            assert record.items == known.items, "what was committed"
            assert min(record.pending, record.running, record.succeeded, record.failed, record.skipped) >= 0
            assert sum(error.count for error in record.errors) == record.failed
            assert not record.ended or record.pending == record.running == 0

    @invariant()
    def workers_know_what_they_own(self) -> None:
        if not hasattr(self, "client"):
            return
        for worker in self.workers:
            broker = worker.broker
            if self.client.zscore(f"{ROOT}ws", broker.life) is not None and not broker._unsure_chunks:
                owned = {name.decode() for name in self.client.hkeys(f"{ROOT}own:{broker.life}")}
                assert {name for name in owned if "." in name} == set(broker.held_chunks)

    @invariant()
    def charged_is_what_waits(self) -> None:
        if not hasattr(self, "client"):
            return
        charged = sum(int(n) for name, n in self.client.hgetall(f"{ROOT}adm").items() if name.endswith(b"|c"))
        parts = self.client.scan_iter(f"{ROOT}r:*.*")
        assert charged == [self.client.hget(part, "state") for part in parts].count(b"QUEUED")

    def teardown(self) -> None:
        if not hasattr(self, "client"):
            return
        try:
            self.heal()
        finally:
            self.runner.run(self.gateway.close())
            self.runner.close()
            self.client.close()

    def heal(self) -> None:
        """One healthy worker remains. Every job must end, with one result for each item that was to run."""
        jobs = self.gateway.jobs
        for worker in [*self.workers, *self.zombies]:
            lapse(self.client, worker.broker)
            worker.link.close()
        for known in self.known.values():
            self.run(None, lambda known=known: jobs.seal(known.tenant, known.job_id))
            if not self.ending(known):
                self.run(None, lambda known=known: jobs.resume(known.tenant, known.job_id))
        healthy = Worker(self.url, "healthy")
        self.work_off(healthy)
        for known in self.known.values():
            failed = self.check_end(known)
            retried = self.run(None, lambda known=known: jobs.retry(known.tenant, known.job_id))
            assert retried.ended == (not failed)
        self.work_off(healthy)
        for known in self.known.values():
            self.check_end(known)
        check_clean(self.client, [healthy.broker.life])
        for known in self.known.values():
            self.run(None, lambda known=known: jobs.delete(known.tenant, known.job_id))
        assert job_keys(self.client) == set()
        healthy.link.close()

    def work_off(self, worker: Worker) -> None:
        for _ in range(400):
            worker.broker.reap()
            for one in worker.broker.take(8):
                worker.requests.append(
                    Output(one.envelope.execution_id, tuple(script_of(one.envelope)[len(one.journal) :]))
                )
            for chunk in worker.broker.take_chunks(2):
                worker.chunks[chunk.chunk_id] = (chunk, [each.index for each in chunk.items])
            self.advance(worker, None, 6, late=False)
            ended = all(self.record(known).ended for known in self.known.values())
            if ended and not self.client.exists(f"{ROOT}adm") and self.client.hlen(f"{ROOT}lives") == 1:
                return
        raise AssertionError("something never ends")

    def check_end(self, known: Known) -> int:
        """Returns the number of failed items."""
        record = self.record(known)
        assert record.ended, record
        found = self.read(known, JOB_RESULT_ORDER_INPUT, 4)
        assert sorted(result.index for result in self.read(known, JOB_RESULT_ORDER_COMPLETION, 3)) == [
            result.index for result in found
        ]
        failed = [result for result in found if result.HasField("error")]
        assert (record.succeeded, record.failed) == (len(found) - len(failed), len(failed))
        assert record.skipped == record.items - len(found)
        assert record.skipped >= known.skipped, "a retry has run what had not failed"
        stored: Counter[tuple[int, int]] = Counter()
        for key in self.client.scan_iter(f"{ROOT}job:*:out"):
            if self.client.hget(key.removesuffix(b":out"), "spec") == record.spec.SerializeToString():
                for part in self.client.hvals(key):
                    results = map(JobResult.FromString, job_wire.split(part))
                    stored.update((result.attempt, result.index) for result in results)
        assert set(stored.values()) <= {1}, "a result is stored twice"
        if record.state not in (JOB_STATE_CANCELLED, JOB_STATE_EXPIRED, JOB_STATE_FAILED):
            assert not record.skipped or record.attempt > 1
            expected = JOB_STATE_PARTIALLY_SUCCEEDED if failed or record.skipped else JOB_STATE_SUCCEEDED
            assert record.state == expected
        return len(failed)


def test_histories(broker_url: str) -> None:
    machine = type("Machine", (Jobs,), {"url": broker_url})
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=examples(60), stateful_step_count=60, suppress_health_check=list(HealthCheck)),
    )
