"""A worker of jobs without a model: real `WorkerBroker`, results known in advance.

A text may say how it is to be treated: one that begins with "bad" fails, one that begins with "hold" waits until
`release`. Generated texts are the prompt, repeated.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

from gateway.scripted_tasks import SCRIPT, text_of_input
from gateway.scripted_worker import card
from xlmstream.v1.common_pb2 import Task, Timing, Usage
from xlmstream.v1.generation_pb2 import Candidate, GenerateResult
from xlmstream.v1.job_pb2 import JobItem, JobResult
from xlmstream_server import errors
from xlmstream_server.broker import BrokerDown, Fenced, ItemResult, TakenChunk, WorkerBroker
from xlmstream_server.broker.v1.messages_pb2 import ServedModel, WorkerCard
from xlmstream_server.tasks.table import TASKS


def outcome(index: int, item: JobItem, *, mended: bool = False) -> JobResult:
    """What comes of an item; with `mended` also of one that is bad."""
    branch = item.WhichOneof("input") or ""
    given: Any = getattr(item, branch)
    text = text_of_input(given)
    if text.startswith("bad") and not mended:
        return JobResult(index=index, error=errors.invalid_input([("input.text", "is bad")]).status)
    usage, timing = Usage(prompt_tokens=len(text)), Timing(worker_id="jobs")
    if branch in ("generate", "translate"):
        written = GenerateResult(candidates=[Candidate(text=text)], usage=usage, timing=timing)
        return JobResult(index=index, **{branch: written})
    _, result_type, _, _, _, result_of = SCRIPT[TASKS[branch].kind]
    return JobResult(index=index, **{branch: result_type(usage=usage, timing=timing, **result_of(given))})


class JobWorker:
    """Runs in a thread of its own. Use as a context manager.

    Args:
        tasks: what its model can do; None: what the scripted worker's can.

    Attributes:
        takes: false to let chunks wait.
        mended: whether bad items succeed.
        sizes: items of each chunk taken.
    """

    def __init__(self, broker_url: str, *, takes: bool = True, tasks: Sequence[Task.ValueType] | None = None) -> None:
        self.takes = takes
        self._card = card(tasks=tasks or [*card().tasks, Task.TASK_TRANSLATE])
        self.mended = False
        self.sizes: list[int] = []
        self._url = broker_url
        self._held: dict[str, tuple[TakenChunk, list[int]]] = {}
        self._released = threading.Event()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="job-worker")
        self._crash: BaseException | None = None

    def __enter__(self) -> JobWorker:
        self._broker = WorkerBroker.connect(self._url, worker_id="jobs", models=["toy@1"], lease_s=2.0)
        self._register()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(60)
        self._broker.close()
        assert not self._thread.is_alive()
        if self._crash is not None:
            raise self._crash

    def release(self) -> None:
        """Let the items that are held end, and those that would be."""
        self._released.set()

    def _register(self) -> None:
        served = ServedModel(model=self._card, bytes_per_token=4.0, slots=8, busy_slots=0)
        self._broker.register(WorkerCard(version="test", models=[served]))

    def _run(self) -> None:
        renewed = 0.0
        try:
            while not self._ending.is_set():
                try:
                    if time.monotonic() - renewed > 0.5:
                        self._broker.renew()
                        self._register()
                        renewed = time.monotonic()
                    self._step()
                except BrokerDown:
                    self._ending.wait(0.05)
                except Fenced:
                    self._held.clear()
                    self._broker.begin()
        except BaseException as crash:  # the test learns of it when it leaves the context
            self._crash = crash
            raise

    def _step(self) -> None:
        for chunk in self._broker.take_chunks(2) if self.takes else ():
            self.sizes.append(len(chunk.items))
            self._held[chunk.chunk_id] = (chunk, list(range(len(chunk.items))))
        results: list[ItemResult] = []
        for name, (chunk, waiting) in list(self._held.items()):
            items = [chunk.items[place] for place in waiting]
            held = [one for one in items if text_of(one.item).startswith("hold") and not self._released.is_set()]
            results += [
                ItemResult(name, outcome(one.index, one.item, mended=self.mended)) for one in items if one not in held
            ]
            self._held[name] = (chunk, [place for place in waiting if chunk.items[place] in held])
            if not held:
                del self._held[name]
        for stopped in self._broker.publish([], results).stop:
            self._held.pop(stopped, None)
        if self._held or not self.takes:
            self._ending.wait(0.02)
        else:
            self._broker.wait(0.05)


def text_of(item: JobItem) -> str:
    return text_of_input(getattr(item, item.WhichOneof("input") or ""))
