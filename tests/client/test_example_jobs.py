"""examples/jobs.py against a fake service, whole and interrupted."""

import importlib
import sqlite3
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xlmstream.testing import Failure, FakeServer

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The example as a module; what it imports from its folder is forgotten afterwards."""
    monkeypatch.syspath_prepend(EXAMPLES)
    before = set(sys.modules)
    yield importlib.import_module("jobs")
    for name in ("jobs", "sentences"):
        if name not in before:
            del sys.modules[name]


def test_example(jobs: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "rows.sqlite")
    with FakeServer({"The king sent his servants to the city.": Failure("INPUT_TOO_LONG", "too long")}) as server:
        server.hold_jobs()
        server.fail(Failure("CANCELLED", "stopped"), method="StreamJobResults")
        with pytest.raises(Exception, match="stopped"):
            jobs.main(server.address, path)
        server.release_jobs()
        for _ in range(2):
            jobs.main(server.address, path)
        [job] = server.jobs.values()
    count = len(job.items)
    assert count == sum(map(len, importlib.import_module("sentences").SENTENCES.values()))
    out = capsys.readouterr().out
    assert out.count(f"{count} rows stored") == 1
    assert out.count(f"partially_succeeded: {count - 1} rows have vectors, 1 failed") == 2
    rows = sqlite3.connect(path)
    vectors = [vector for (vector,) in rows.execute("SELECT vector FROM texts ORDER BY id")]
    rows.close()
    assert [number for number, vector in enumerate(vectors) if vector is None] == [
        index for index, result in job.latest.items() if result.HasField("error")
    ]
    assert len(struct.unpack("<8f", vectors[0])) == 8
