"""Processes that tokenise: requests of encoder tasks prepared beside the worker, so that no interpreter lock holds up
the threads that feed the device.

Each process has a tokenizer of its own and no PyTorch. Where one dies, the requests that were with them are prepared by
the worker itself: what kills a tokenizer then shows as the death of a worker, and is isolated as every other poison.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from google.rpc.status_pb2 import Status
from xlmstream.v1.common_pb2 import Task
from xlmstream.v1.models_pb2 import Model

from xlmstream_worker.detokenize import PieceTexts
from xlmstream_worker.tasks.encoder_tasks import ENCODER_TASKS
from xlmstream_worker.tasks.encoding import Item
from xlmstream_worker.tasks.inputs import Refused
from xlmstream_worker.text_model import TextModel, TextRate, config_of, languages_of
from xlmstream_worker.xlm import XLMTokenizer


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request ready for the engine, or refused as a whole."""

    items: list[Item[Any] | Status] | Status
    tokenize_s: float
    text_bytes: int
    tokens: int


def prepare(task: Task.ValueType, request: bytes, model: TextModel) -> Prepared:
    """Read, check and tokenise a request."""
    began = time.monotonic()
    bytes_before, tokens_before = model.text_rate.counted
    items: list[Item[Any] | Status] | Status
    try:
        items = ENCODER_TASKS[task].prepare(request, model)
    except Refused as refused:
        items = refused.status
    text_bytes, tokens = model.text_rate.counted
    return Prepared(items, time.monotonic() - began, text_bytes - bytes_before, tokens - tokens_before)


class TokenizerProcesses:
    """`prepare`, in other processes. Any thread may use it."""

    def __init__(self, model: TextModel, processes: int) -> None:
        """The processes start as work comes, `processes` at most."""
        self._directory = model.directory
        self._card = model.card.SerializeToString()
        self._processes = processes
        self._lock = threading.Lock()
        self._pool = self._start()

    def submit(self, task: Task.ValueType, request: bytes, done: Callable[[Prepared | BaseException], None]) -> None:
        """Prepare a request and call `done`, in a thread of this class, with the result or what went wrong:
        BrokenProcessPool where a process died, which may have been another request's fault."""
        pool = self._pool
        try:
            future = pool.submit(_prepare_here, self._directory, self._card, task, request)
        except BrokenProcessPool as died:
            self._replace(pool)
            done(died)
        else:
            future.add_done_callback(partial(self._pass_on, pool, done))

    def close(self) -> None:
        """End the processes; what they have not begun is dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _pass_on(
        self, pool: ProcessPoolExecutor, done: Callable[[Prepared | BaseException], None], future: Future[Prepared]
    ) -> None:
        if future.cancelled():
            return
        error = future.exception()
        if isinstance(error, BrokenProcessPool):
            self._replace(pool)
        done(future.result() if error is None else error)

    def _replace(self, broken: ProcessPoolExecutor) -> None:
        with self._lock:
            if self._pool is broken:
                self._pool = self._start()

    def _start(self) -> ProcessPoolExecutor:
        # Not forked: a copy of a process with threads and a GPU in the middle of something is good for nothing.
        spawn = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self._processes, mp_context=spawn, initializer=_begin)


def _begin() -> None:
    """In a new process: end with the worker, whatever ends that."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the worker, too, which decides
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(0)


def _prepare_here(directory: Path, card: bytes, task: Task.ValueType, request: bytes) -> Prepared:
    return prepare(task, request, _text_model(directory, card))


@cache
def _text_model(directory: Path, card: bytes) -> TextModel:
    """The texts' part of a model, without its weights; loaded once in a process."""
    model = Model.FromString(card)
    config = config_of(directory, model.causal)
    tokenizer = XLMTokenizer.from_pretrained(directory)
    pieces = PieceTexts(tokenizer.get_vocab(), frozenset(tokenizer.all_special_ids))
    return TextModel(model, config, tokenizer, pieces, languages_of(config), TextRate(), directory)
