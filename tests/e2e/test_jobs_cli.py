"""`xlmstream jobs submit` on the real service: command, worker and gateway are killed, and the file is whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from e2e.service import Service, until
from e2e.solo import Solo
from xlmstream import Client, JobNotFound

COUNT = 1500
TOKENS = 6
WORDS = ["the", "and", "in", "lord", "abc", "日", "é", "x"]
# Small calls, so that the upload takes many. And Ctrl-C as a terminal has it: what runs in the background ignores it.
PROGRAM = """
import signal
import sys
from xlmstream.cli import main
from xlmstream.jobs import uploading
signal.signal(signal.SIGINT, signal.default_int_handler)
uploading.MESSAGE_BYTES, uploading.CALL_BYTES = 1_000, 2_000
sys.exit(main())
"""


def test_killed_at_every_stage_the_same_command_ends_with_every_result(
    service: Service, solo: Solo, tmp_path: Path
) -> None:
    prompts = [f"{WORDS[i % 8]} {WORDS[i // 8 % 8]}" for i in range(COUNT)]
    rows = [{"id": f"k{i}", "prompt": prompt} for i, prompt in enumerate(prompts)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out, state = tmp_path / "out.jsonl", tmp_path / "out.jsonl.part.json"
    settings = {"lease_s": 1.0, "step_ms": 5.0}
    worker = service.worker(**settings)
    service.wait_serving()
    line = ["jobs", "submit", "a.jsonl", "--task", "generate", "--job-id", "from-a-file", "--output", "out.jsonl"]
    line += ["--max-new-tokens", str(TOKENS), "--ignore-eos", "--address", service.address]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *line],
            cwd=tmp_path,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    with Client(service.address) as client:

        def stored() -> int:
            try:
                return client.jobs.get("from-a-file").items_committed
            except JobNotFound:
                return 0

        def written() -> int:
            """Results that are safely in the file: what a killed command may have written beyond is cut off."""
            return json.loads(state.read_text())["results"] if state.exists() else 0

        def told_until(command: subprocess.Popen[str], word: str) -> None:
            """Read what it tells until a line begins so."""
            assert command.stderr is not None
            for line in command.stderr:
                if line.startswith(word):
                    return
            raise AssertionError(f"it ended before it told {word!r}")

        for least in (1, COUNT // 3):
            command = start()
            until(lambda least=least: stored() > least, "items of the upload")  # type: ignore[misc]
            client.jobs.get("from-a-file").pause()
            command.kill()
            command.communicate()
        command = start()
        until(lambda: stored() == COUNT, "the upload")
        client.jobs.get("from-a-file").resume()
        until(lambda: written() > 0, "results in the file")
        job = client.jobs.get("from-a-file").pause()
        command.kill()
        command.communicate()
        until(lambda: job.refresh().info.counts.running == 0, "the end of what had begun")
        assert 0 < job.info.counts.succeeded < COUNT
        command = start()
        told_until(command, "Continuing")
        command.send_signal(signal.SIGINT)
        _, told = command.communicate(timeout=60)
        assert command.returncode == 130, told
        assert "Interrupted. Job from-a-file goes on." in told
        command = start()
        told_until(command, "Continuing")
        service.restart_gateway()
        worker.kill()
        service.worker(**settings)
        job.resume()
        printed, told = command.communicate(timeout=120)
        assert (command.returncode, printed) == (0, "from-a-file\n"), told
        assert f"{COUNT:,} results in out.jsonl" in told
        assert f"Job from-a-file succeeded: {COUNT:,} of {COUNT:,} items succeeded, 0 failed" in told
        job.refresh()
        assert job.info.counts.succeeded == job.items_committed == COUNT
    results = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(one["index"], one["key"]) for one in results] == [(i, f"k{i}") for i in range(COUNT)]
    for one in results[:: COUNT // 20]:
        solo.check(prompts[one["index"]], one["token_ids"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "out.jsonl"]
