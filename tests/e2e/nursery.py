"""Forks worker processes that have loaded PyTorch and met the model before: they start in tenths, not in seconds.

Reads one JSON object a line, forks a process that runs `xlmstream-worker`, and answers with its process id:

    arguments   those of the command
    log         path of the file that takes its output
    step_ms     each step of an engine takes that much longer, as a real model's would
    poison      a prompt that holds this word kills the process that tokenises it, as a defect in a library can
    defect      a prompt that holds this word raises where it is tokenised
    hang_after  after so many steps a step never returns, as on a wedged device; 0 for never

    python nursery.py MODEL_DIRECTORY
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from xlmstream_worker import __main__ as command
from xlmstream_worker import preparing, process
from xlmstream_worker.config import DeviceConfig, ModelConfig
from xlmstream_worker.decoder import DecoderEngine
from xlmstream_worker.encoder import EncoderEngine
from xlmstream_worker.encoder_inputs import EncoderStep
from xlmstream_worker.models import LoadedModel, load_model
from xlmstream_worker.rows import Row
from xlmstream_worker.sequences import StepResult
from xlmstream_worker.tasks.generate import Generation


def be_slow(step_ms: float, hang_after: int) -> None:
    class SlowEngine(DecoderEngine):
        steps = 0

        def warm_up(self) -> None:
            """Without it, steps are counted from the first request on."""

        def step(self) -> StepResult:
            time.sleep(step_ms / 1000)
            self.steps += 1
            if self.steps == hang_after:
                time.sleep(3600)
            return super().step()

    class SlowEncoder(EncoderEngine):
        def step(self) -> EncoderStep:
            time.sleep(step_ms / 1000)
            return super().step()

    process.DecoderEngine = SlowEngine
    process.EncoderEngine = SlowEncoder


def be_mortal(poison: str) -> None:
    class MortalGeneration(Generation):
        def __init__(self, row: Row, model: LoadedModel, worker_id: str) -> None:
            super().__init__(row, model, worker_id)
            if poison.encode() in row.taken.envelope.request:
                os.kill(os.getpid(), signal.SIGKILL)

    preparing.Generation = MortalGeneration


def be_defective(defect: str) -> None:
    class DefectiveGeneration(Generation):
        def __init__(self, row: Row, model: LoadedModel, worker_id: str) -> None:
            super().__init__(row, model, worker_id)
            if defect.encode() in row.taken.envelope.request:
                raise RuntimeError("a defect")

    preparing.Generation = DefectiveGeneration


def become_worker(order: dict[str, object]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if order["step_ms"] or order["hang_after"]:
        be_slow(order["step_ms"], order["hang_after"])
    if order["poison"]:
        be_mortal(order["poison"])
    if order["defect"]:
        be_defective(order["defect"])
    sys.exit(command.main(order["arguments"]))


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system forgets children as they end
    load_model(ModelConfig(Path(sys.argv[1]), "toy"), DeviceConfig())  # what is imported and compiled at first use
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            become_worker(json.loads(line))
        print(child, flush=True)


if __name__ == "__main__":
    main()
