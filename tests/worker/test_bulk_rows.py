"""Which bulk generations run: the rules one by one, and what holds whatever happens."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st
from xlmstream_worker.bulk_rows import LONGER, PATIENCE_STEPS, QUIET_STEPS, BulkRows, Change, StepCosts, own_slots

SLOTS = 16


@dataclass
class Slots:
    """An engine reduced to counting."""

    slots: int = SLOTS
    bulk: BulkRows[None] = field(init=False)
    running: dict[str, int] = field(default_factory=dict)
    others: int = 0
    """Slots that other work holds or waits for."""
    beside: int = 0

    def __post_init__(self) -> None:
        self.bulk = BulkRows(self.slots)

    @property
    def spare(self) -> int:
        return self.slots - self.others - sum(self.running.values())

    def step(self) -> Change[None]:
        change = self.bulk.next(self.spare, self.others, self.beside)
        for entry in change.leaving:
            del self.running[entry.key]
        for entry in change.joining:
            assert entry.key not in self.running
            self.running[entry.key] = entry.rows
        return change

    def end(self, key: str) -> None:
        self.running.pop(key, None)
        self.bulk.drop(key)


def slots_with(generations: int, rows: int = 1, slots: int = SLOTS) -> Slots:
    engine = Slots(slots)
    for number in range(generations):
        engine.bulk.add(str(number), rows, None)
    return engine


def test_bulk_work_takes_all_slots_that_nobody_needs_in_its_order() -> None:
    engine = slots_with(20)
    engine.step()
    assert list(engine.running) == [str(number) for number in range(16)]
    engine.end("3")
    engine.step()
    assert "16" in engine.running
    assert engine.spare == 0


def test_it_leaves_others_their_slots_and_their_pace_the_newest_first_and_spreads_again_when_all_is_quiet() -> None:
    engine = slots_with(18)
    engine.step()
    engine.others, engine.beside = 3, 6
    assert [entry.key for entry in engine.step().leaving] == [str(number) for number in range(15, 5, -1)]
    assert engine.step() == Change()
    engine.others = 0
    for _ in range(QUIET_STEPS - 1):
        assert engine.step() == Change()
    assert [entry.key for entry in engine.step().joining] == [str(number) for number in range(6, 16)]


def test_beside_others_it_grows_by_one_a_step_as_far_as_their_pace_allows_and_leaves_slots_free() -> None:
    engine = slots_with(20)
    engine.others, engine.beside = 4, 5
    for held in (1, 2, 3, 4, 5, 5):
        engine.step()
        assert len(engine.running) == held
    engine.beside = 100
    for _ in range(20):
        engine.step()
    assert engine.spare == own_slots(SLOTS)
    engine.others += 2
    assert engine.step() == Change()


def test_its_own_slots_are_never_taken_from_it() -> None:
    engine = slots_with(20)
    engine.step()
    engine.others = 100
    engine.step()
    assert list(engine.running) == ["0", "1"]
    engine.others = SLOTS - 2
    engine.end("0")
    engine.step()
    assert list(engine.running) == ["1", "2"]


def test_one_that_needs_more_than_the_pace_allows_is_not_sent_back_and_forth() -> None:
    engine = slots_with(2, rows=5)
    engine.others = 2
    assert [entry.key for entry in engine.step().joining] == ["0"]
    for _ in range(10):
        assert engine.step() == Change()


def test_where_others_always_want_everything_patience_gives_it_a_turn_that_stays() -> None:
    engine = slots_with(2, slots=4)
    engine.others = 8
    for _ in range(PATIENCE_STEPS - 1):
        assert engine.step() == Change()
    assert [entry.key for entry in engine.step().joining] == ["0"]
    for _ in range(3 * PATIENCE_STEPS):
        assert engine.step() == Change()
    engine.end("0")
    for _ in range(PATIENCE_STEPS):
        engine.step()
    assert list(engine.running) == ["1"]


def test_what_needs_more_slots_than_there_are_is_let_through_to_be_refused() -> None:
    engine = slots_with(1, rows=99)
    assert [entry.key for entry in engine.step().joining] == ["0"]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 20), st.integers(1, 5)), max_size=60), st.integers(1, 20))
def test_nothing_is_lost_or_run_twice_and_slots_suffice(moves: list[tuple[int, int, int]], slots: int) -> None:
    engine, added, ended = Slots(slots), 0, set[str]()
    for kind, number, rows in moves:
        if kind == 0:
            engine.bulk.add(str(added), rows, None)
            added += 1
        elif kind == 1 and engine.running:
            key = list(engine.running)[number % len(engine.running)]
            engine.end(key)
            ended.add(key)
        elif kind == 2:
            engine.others = number
        else:
            engine.beside = number
        before = engine.spare
        change = engine.step()
        assert engine.spare >= min(before, 0)
        assert not (change.leaving and change.joining)
        assert engine.bulk.running == len(engine.running)
        assert engine.bulk.waiting + len(engine.running) + len(ended) == added
    engine.others = 0
    for _ in range(added):
        engine.step()
        for key in list(engine.running):
            engine.end(key)
            ended.add(key)
    assert ended == {str(number) for number in range(added)}


def test_step_costs_are_learnt_and_forgotten() -> None:
    costs = StepCosts()
    assert costs.beside(3) == 0
    for _ in range(50):
        costs.note(16, 0.006)
    assert costs.beside(3) == 0  # one point makes no line
    for rows in (4, 8, 5, 16) * 50:
        costs.note(rows, 0.002 + 0.00025 * rows)
    assert costs.beside(4) in range(5, 7)  # half of 3 ms
    assert costs.beside(16) in range(11, 13)
    for rows in (4, 8, 5, 16) * 100:
        costs.note(rows, 0.004 + 0.000001 * rows)
    assert costs.beside(1) > 1000
    assert LONGER == 1.5


def test_step_costs_that_fall_with_the_rows_or_begin_below_nothing_say_something_finite() -> None:
    falling, below = StepCosts(), StepCosts()
    for rows in (4, 8, 16) * 10:
        falling.note(rows, 0.01 / rows)
        below.note(rows, max(0.001 * (rows - 5), 0.0))
    assert falling.beside(2) >= 0
    assert below.beside(2) >= 1
