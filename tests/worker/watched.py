"""A decoder engine that tests can watch and hold up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from xlmstream_worker.decoder import DecoderEngine
from xlmstream_worker.models import LoadedModel
from xlmstream_worker.sequences import EngineConfig, StepResult

SLOTS = 4


class WatchedEngine(DecoderEngine):
    """Counts steps, and can be made slow, or to hang in one."""

    def __init__(self, toy: LoadedModel) -> None:
        super().__init__(toy.network, EngineConfig(max_slots=SLOTS))
        self.steps = 0
        self.step_s = 0.0
        self.may_step = threading.Event()
        self.may_step.set()
        self.after_step: Callable[[StepResult], None] = lambda result: None

    def step(self) -> StepResult:
        self.may_step.wait()
        time.sleep(self.step_s)
        result = super().step()
        self.steps += 1
        self.after_step(result)
        return result
