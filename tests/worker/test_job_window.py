"""How much of jobs a worker may lose: what has begun and is not saved is one chunk's worth, at every step."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from google.rpc.code_pb2 import INTERNAL
from google.rpc.status_pb2 import Status
from hypothesis import given, settings
from hypothesis import strategies as st
from worker.chunks import chunk
from worker.fake_broker import FakeBroker
from worker.test_jobs import results, texts
from worker.watched import WatchedEngine
from xlmstream.v1.embedding_pb2 import EmbedResponse
from xlmstream.v1.generation_pb2 import GenerationParameters
from xlmstream_server.broker import JobLimits
from xlmstream_server.broker.chunks import SAVE_RESULTS
from xlmstream_server.broker.v1.messages_pb2 import Event
from xlmstream_worker.jobs.chunks import MOST_UNSAVED, Chunks
from xlmstream_worker.jobs.tasks import BATCHED_ITEMS
from xlmstream_worker.rows import Row, RowEvents
from xlmstream_worker.text_model import TextRate

SHORT = GenerationParameters(max_new_tokens=1, ignore_eos=True)


def items_in(row: Row) -> int:
    """Of a row, by its name."""
    return int(row.execution_id.rpartition("+")[2])


class Window:
    """The publisher's part, with an engine that ends rows in any order and a broker that saves when told to."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.queue = list(sizes)
        self.chunks = Chunks(slots=0, batch_tokens=2048, text_rate=TextRate(), any_in_hand=lambda _: None)
        self.running: list[Row] = []
        self.unsaved = self.saved = self.taken = 0

    def take_and_begin(self) -> None:
        room, n = self.chunks.room(self.unsaved), 0
        while self.queue and n < room:
            items = self.queue.pop(0)
            assert self.chunks.took(chunk("embed", texts(items), chunk_id=f"00job.1.{self.taken}")) == []
            self.taken, n = self.taken + 1, n + items
        before = len(self.running)
        self.running += self.chunks.begin(self.unsaved)
        if n:  # nothing is in hand of which nothing has begun
            names = {row.execution_id.partition("/")[0] for row in self.running[before:]}
            assert f"00job.1.{self.taken - 1}" in names
        assert sum(map(items_in, self.running)) + self.unsaved <= MOST_UNSAVED

    def end(self, pick: int, defect: bool) -> None:
        row = self.running.pop(pick % len(self.running))
        answer = EmbedResponse()
        for _ in range(items_in(row)):
            answer.outputs.add().result.SetInParent()
        event = Event(failed=Status(code=INTERNAL)) if defect else Event(embedded=answer)
        found = self.chunks.push(RowEvents(row, (event,)))
        assert len(found) == (0 if defect and items_in(row) > 1 else items_in(row))
        self.unsaved += len(found)

    def save(self) -> None:
        self.saved, self.unsaved = self.saved + self.unsaved, 0


@settings(max_examples=60)
@given(
    sizes=st.lists(st.sampled_from([1, 2, 5, 31, 32, 33, 100, 255, 256]), min_size=1, max_size=8),
    steps=st.lists(st.tuples(st.integers(0, 999), st.integers(0, 9)), max_size=60),
)
def test_what_has_begun_and_is_not_saved_is_one_chunks_worth(sizes: list[int], steps: list[tuple[int, int]]) -> None:
    """Whatever ends when and whenever it is saved; and once all is saved, all has its result."""
    window = Window(sizes)
    for pick, chance in steps:
        window.take_and_begin()
        if window.running:
            window.end(pick, defect=chance == 0)
        if chance > 7:
            window.save()
    while True:
        window.save()
        window.take_and_begin()
        if not window.running:
            break
        window.end(0, defect=False)
    assert (window.saved, window.queue, len(window.chunks)) == (sum(sizes), [], 0)


def test_an_engine_has_work_while_results_are_saved() -> None:
    """When so much is unsaved that it is saved, another third of a chunk waits or runs, and there is room for the next
    chunk as soon as it is saved."""
    window = Window([256, 256])
    window.take_and_begin()
    assert sum(map(items_in, window.running)) == MOST_UNSAVED == JobLimits().chunk_items
    while window.unsaved < SAVE_RESULTS:
        window.end(0, defect=False)
    assert sum(map(items_in, window.running)) >= MOST_UNSAVED - SAVE_RESULTS - BATCHED_ITEMS
    assert window.taken == 1
    window.save()
    window.take_and_begin()
    assert window.taken == 2


@pytest.mark.usefixtures("serving")
def test_while_the_broker_is_away_no_more_than_a_chunks_worth_is_computed(
    broker: FakeBroker, engine: WatchedEngine
) -> None:
    """Nothing can be saved then: this is all that a crash at any moment could cost."""
    computed: set[str] = set()
    engine.after_step = lambda result: computed.update(output.key for output in result.tokens)
    given = chunk("generate", texts(400), SHORT)
    broker.give(given)
    broker.until(lambda: bool(broker.results))
    with broker.changed:
        broker.down = True
        saved = len(broker.results[given.chunk_id])
    broker.until(lambda: len(computed) == saved + MOST_UNSAVED and engine.idle)
    with broker.changed:
        assert len(broker.results[given.chunk_id]) == saved
        broker.down = False
    (found,) = results(broker, given)
    assert len(found) == len(computed) == 400
