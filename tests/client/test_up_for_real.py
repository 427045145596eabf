"""`xlmstream up` with the real broker, gateway and worker, on a model of random weights."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
from xlmstream import Client


def toy_model(directory: Path) -> Path:
    """A model directory, made by the helper of the worker's tests."""
    path = Path(__file__).parents[1] / "worker" / "toy.py"
    spec = importlib.util.spec_from_file_location("toy", path)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Path(module.make_model(directory))


def test_up_serves_a_model_and_drains(tmp_path: Path, unused_tcp_port: int) -> None:
    model, address = toy_model(tmp_path / "toy"), f"127.0.0.1:{unused_tcp_port}"
    xlmstream = (sys.executable, "-m", "xlmstream.cli")
    process = subprocess.Popen(
        [*xlmstream, "up", str(model), "--listen", address, "--slots", "4"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    output: list[str] = []
    parts: list[psutil.Process] = []
    with process:
        try:
            for line in process.stdout:
                output.append(line)
                if line.startswith("Ctrl-C stops it."):
                    break
            assert any(line.startswith("Serving toy@1") for line in output), output
            parts = psutil.Process(process.pid).children(recursive=True)
            assert len(parts) >= 3, "broker, gateway and worker"
            with Client(address) as client:
                expected = client.generate("the lord and", max_new_tokens=20)
                with client.generate_stream("the lord and", max_new_tokens=20) as stream:
                    assert stream.result().token_ids == expected.token_ids
            command = [*xlmstream, "generate", "--address", address, "--max-new-tokens", "20", "the lord and", "--json"]
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
            assert json.loads(done.stdout)["token_ids"] == list(expected.token_ids)
        finally:
            process.send_signal(signal.SIGINT)
            output.append(process.stdout.read())
    assert process.returncode == 0, output
    assert psutil.wait_procs(parts, timeout=60)[1] == [], "every part has ended"
