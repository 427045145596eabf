"""One chunk of a job in this worker's hands: its items as parts that run like requests, and what came of each item."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence

import xlmstream.status as statuses
from google.protobuf.message import Message
from google.rpc.code_pb2 import INTERNAL
from google.rpc.status_pb2 import Status
from xlmstream.v1.common_pb2 import TASK_UNSPECIFIED, RequestOptions
from xlmstream.v1.job_pb2 import JobResult
from xlmstream_server.broker import ChunkItem, ItemResult, Taken, TakenChunk
from xlmstream_server.broker.v1.messages_pb2 import Envelope, Event

from xlmstream_worker.jobs.tasks import JOB_TASKS
from xlmstream_worker.rows import Row


class Chunk:
    """A taken chunk. It gives the rows of its parts; of each it takes the events and gives the results of its items."""

    def __init__(self, taken: TakenChunk) -> None:
        """Raises KeyError for a task that this version does not know."""
        self.taken = taken
        self.began = time.monotonic()
        self.failed_items = 0
        self._branch = taken.spec.task.WhichOneof("parameters") or ""
        self._task = JOB_TASKS[self._branch]
        self._parts: dict[Row, Sequence[ChunkItem]] = {}
        self._events: dict[Row, list[Event]] = {}
        for first in range(0, len(taken.items), self._task.items):
            items = taken.items[first : first + self._task.items]
            self._parts[self._row(items)] = items
        self.items_left = len(taken.items)
        self.sequences = self._task.sequences(getattr(taken.spec.task, self._branch))
        """Slots of the decoder that an item needs; 0 where it is for the encoder."""

    @property
    def chunk_id(self) -> str:
        return self.taken.chunk_id

    @property
    def input_bytes(self) -> int:
        """Of all items together, as they are on the wire."""
        return sum(one.item.ByteSize() for one in self.taken.items)

    @property
    def rows(self) -> tuple[Row, ...]:
        """The parts that have not ended."""
        return tuple(self._parts)

    def items_of(self, row: Row) -> int:
        """Items of a part that has not ended."""
        return len(self._parts[row])

    def push(self, row: Row, events: Sequence[Event], ended: bool) -> tuple[list[Row], list[ItemResult]]:
        """Take new events of a part. With its end come the results of its items; or, where a defect ended it and one
        of several items may be at fault, further rows to run, each with one of them."""
        self._events.setdefault(row, []).extend(events)
        if not ended:
            return [], []
        row.ended = True
        items, said = self._parts.pop(row), self._events.pop(row)
        if len(items) > 1 and said[-1].failed.code == INTERNAL:
            singles = {self._row([one]): [one] for one in items}
            self._parts |= singles
            return list(singles), []
        self.items_left -= len(items)
        outcomes = self._task.outcomes(said, len(items))
        return [], [self._result(one, outcome) for one, outcome in zip(items, outcomes, strict=True)]

    def _result(self, one: ChunkItem, outcome: Message) -> ItemResult:
        self.failed_items += isinstance(outcome, Status)
        branch = "error" if isinstance(outcome, Status) else self._branch
        return ItemResult(self.chunk_id, JobResult(index=one.index, **{branch: outcome}))  # type: ignore[arg-type]

    def _row(self, items: Sequence[ChunkItem]) -> Row:
        spec, first = self.taken.spec, items[0].index
        request = self._task.request(
            RequestOptions(truncation=spec.truncation),
            getattr(spec.task, self._branch),
            [getattr(one.item, self._branch) for one in items],
        )
        envelope = Envelope(
            execution_id=f"{self.chunk_id}/{first}+{len(items)}",
            tenant=spec.tenant,
            model=spec.model,
            task=self._task.kind,
            request=request.SerializeToString(),
            accepted_ms=self.taken.taken_ms,  # how long an item has waited says nothing
            seed=item_seed(spec.seed, first),
        )
        taken = Taken(envelope, (), self.taken.deaths + 1, self.taken.alone, self.taken.taken_ms)
        return Row(taken, key=f"{envelope.execution_id}#{self.taken.taken_ms}", bulk=True)


def item_seed(job_seed: int, index: int) -> int:
    """The seed of an item where the job's parameters name none: its own, and the same each time it runs."""
    digest = hashlib.sha256(f"{job_seed}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


def refused(taken: TakenChunk) -> list[ItemResult]:
    """The results of a chunk whose task this version does not know."""
    known = (task.kind for task in JOB_TASKS.values())
    status = statuses.task_unsupported(taken.spec.model, TASK_UNSPECIFIED, known)
    return [ItemResult(taken.chunk_id, JobResult(index=one.index, error=status)) for one in taken.items]
