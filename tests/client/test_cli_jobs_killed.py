"""`xlmstream jobs submit` as a process that is killed, again and again."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from xlmstream.testing import Failure, FakeServer
from xlmstream.v1.jobs_pb2 import UploadJobItemsRequest

ITEMS = 3000
WAIT_S = 60.0
# Small calls and commits, so that there is much to be interrupted.
PROGRAM = """
import sys
from xlmstream.cli import main
from xlmstream.files import output
from xlmstream.jobs import uploading
uploading.MESSAGE_BYTES, uploading.CALL_BYTES, output.COMMIT_EVERY_S = 2_000, 20_000, 0.0
sys.exit(main())
"""


def test_killed_at_random_points_nothing_is_missing_or_twice(tmp_path: Path) -> None:
    rows = [{"text": f"{'long' if i % 100 == 7 else 'line'} {i} {'word ' * 10}", "id": f"k{i}"} for i in range(ITEMS)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    random_, kills = random.Random(11), 0
    with FakeServer(lambda prompt: Failure("INPUT_TOO_LONG") if "long" in prompt else "") as server:
        command = [sys.executable, "-c", PROGRAM, "jobs", "submit", "a.jsonl", "--task", "score", "--output"]
        environment = {**os.environ, "XLMSTREAM_ADDRESS": server.address, "PYTHONPATH": os.pathsep.join(sys.path)}
        part = tmp_path / "out.jsonl.part"

        def reached() -> int:
            """How much has happened: messages of the upload, bytes of the results."""
            sent = sum(isinstance(one, UploadJobItemsRequest) for one in list(server.requests))
            return sent + (part.stat().st_size // 500 if part.exists() else 0)

        def run(line: list[str], more: float) -> int:
            """Run until so much more has happened, then kill; the exit code, negative where it was killed."""
            until, deadline = reached() + more, time.monotonic() + WAIT_S
            with subprocess.Popen(line, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL) as process:
                while process.poll() is None and reached() < until:
                    assert time.monotonic() < deadline
                    time.sleep(0.001)  # a look at what has happened, not a wait for it
                process.send_signal(signal.SIGKILL)
                return process.wait()

        # The upload is some hundred messages, the results some hundred kilobytes.
        while (code := run([*command, "out.jsonl"], random_.randrange(20, 80 + 150 * kills))) == -signal.SIGKILL:
            kills += 1
        assert code == 5
        assert run([*command, "whole.jsonl"], float("inf")) == 5
        [job] = server.jobs.values()
        assert [item.key for item in job.items] == [f"k{i}" for i in range(ITEMS)], "each item is stored once"
    assert kills
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert [json.loads(line)["index"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == list(
        range(ITEMS)
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "out.jsonl", "whole.jsonl"]
