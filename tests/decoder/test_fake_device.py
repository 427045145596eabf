"""No step of an engine waits for its device or mixes devices, whatever its rows ask for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_no_step_waits_for_the_device() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "decoder.fake_device"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent.parent), *sys.path])},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr[-2000:]
    launches = {name: int(count) for name, count in (line.split(": ") for line in run.stdout.splitlines())}
    assert len(launches) == 29
    # What is launched one by one beside a recorded step is what holds up a GPU: the choice and the append of the best.
    assert max(launches["greedy"], launches["greedy, by a mask"], launches["translation"]) <= 16
