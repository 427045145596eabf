"""The scheduler alone, driven at random: slots are never shared, lost or scattered, and nobody overtakes or starves."""

from __future__ import annotations

from effort import examples
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from xlmstream_worker.lanes import Row
from xlmstream_worker.scheduler import Scheduler
from xlmstream_worker.sequences import DecodingMode, SequenceRequest

CONTEXT = 24


class SchedulerMachine(RuleBasedStateMachine):
    """Plays the engine: it keeps, per slot, which row's tokens the copies have put there."""

    @initialize(slots=st.integers(1, 6), staging=st.integers(1, 3), budget=st.integers(1, 9), gap=st.integers(0, 2))
    def start(self, slots: int, staging: int, budget: int, gap: int) -> None:
        self.slots, self.staging, self.budget = slots, staging, budget
        self.scheduler = Scheduler(slots, staging, budget, CONTEXT, gap=gap)
        self.content: dict[int, object] = {}
        self.arrived: list[str] = []
        self.started: list[str] = []
        self.alive: set[str] = set()
        self.ended: set[tuple[str, int]] = set()

    @rule(data=st.data(), alone=st.booleans(), mode=st.sampled_from(DecodingMode))
    def add(self, data: st.DataObject, alone: bool, mode: DecodingMode) -> None:
        candidates = data.draw(st.integers(1, self.slots))
        forced = data.draw(st.sampled_from([(), tuple((9,) * (c % 3) for c in range(candidates))]))
        request = SequenceRequest(
            key=f"r{len(self.arrived)}",
            prompt_ids=(5,) * data.draw(st.integers(1, CONTEXT - 4)),
            mode=mode,
            max_new_tokens=data.draw(st.integers(3, 6)),
            candidates=candidates,
            forced_ids=forced,
            alone=alone and data.draw(st.booleans()),
        )
        self.arrived.append(request.key)
        self.alive.add(request.key)
        self.scheduler.add(request)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.alive)))
        self.alive.remove(key)
        self.scheduler.cancel(key)
        assert key not in self.scheduler

    @precondition(lambda self: self.scheduler._keys)
    @rule(data=st.data())
    def end_one_candidate(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.scheduler._keys)))
        candidate = data.draw(st.integers(0, self.scheduler._keys[key].candidates - 1))
        self.scheduler.finish(key, candidate)
        self.ended.add((key, candidate))

    @rule()
    def step(self) -> None:
        held = {row: row.slot for row in self.scheduler.rows() if not row.leaving}
        chunks = self.scheduler.chunks()
        assert sum(chunk.stop - chunk.start for chunk in chunks) <= self.budget
        assert len({chunk.prompt.slot for chunk in chunks}) == len(chunks) <= self.staging
        for chunk in chunks:
            assert 0 <= chunk.start < chunk.stop <= chunk.prompt.needed
        placement = self.scheduler.place()
        for source, slot, _ in placement.moves:
            assert slot not in {row.slot for row, before in held.items() if row.slot == before}
            self.content[slot] = self.content[source]
        for prompt, row in placement.started:
            assert prompt.computed == prompt.needed == len(prompt.ids) - 1
            self.content[row.slot] = row
            assert row.request.key in self.alive, "cancelled before"
            assert (row.request.key, row.candidate) not in self.ended
            if row.request.key not in self.started:
                self.started.append(row.request.key)
        for row in self.scheduler.rows():
            assert self.content[row.slot] is row, "the slot holds another row's tokens"
            row.produced += 1
            if row.produced == row.limit:
                row.leaving = row.silent = True
                self.scheduler.forget_if_ended(row.request.key)

    @invariant()
    def slots_are_dense_and_disjoint(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        for lane in self.scheduler.lanes.values():
            assert [row.slot for row in lane.rows] == [lane.slot(index) for index in range(len(lane.rows))]
            assert all(row.request.mode is lane.mode for row in lane.rows)
        rows = list(self.scheduler.rows())
        assert len({row.slot for row in rows}) == len(rows) <= self.slots
        assert 0 <= self.scheduler.busy_slots <= self.slots
        assert self.scheduler.busy_slots + self.scheduler.free_slots <= self.slots

    @invariant()
    def order_and_quarantine_hold(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        assert self.started == [key for key in self.arrived if key in set(self.started)], "somebody overtook"
        running: list[Row] = [row for row in self.scheduler.rows() if not row.leaving]
        if any(row.request.alone for row in running):
            assert len({row.request.key for row in running}) == 1

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        for _ in range(400):
            if self.scheduler.idle:
                break
            self.step()
        assert self.scheduler.idle, "work is left that nothing advances"
        self.scheduler.place()
        assert not self.scheduler._keys
        assert sorted(self.scheduler._staging) == sorted(set(self.scheduler._staging))
        assert len(self.scheduler._staging) == self.staging
        assert self.scheduler.free_slots == self.slots


SchedulerMachine.TestCase.settings = settings(
    max_examples=examples(100), stateful_step_count=25, phases=[Phase.generate]
)
TestScheduler = SchedulerMachine.TestCase
