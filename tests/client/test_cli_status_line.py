"""The line that tells how far something is, on a terminal and in a log; and how jobs are told in a line or a few."""

import os
import re
import sys
from typing import Any

import pytest
from xlmstream.cli import status_line
from xlmstream.cli.jobs_show import code_of, progress_of, summary_of
from xlmstream.cli.status_line import StatusLine, bar, duration
from xlmstream.jobs import JobState
from xlmstream.jobs.values import number_of
from xlmstream.v1.job_pb2 import Job, JobCounts


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A clock that is set."""
    now = [1000.0]
    monkeypatch.setattr(status_line.time, "monotonic", lambda: now[0])
    return now


def test_a_terminal_has_one_line_that_is_gone_in_the_end(
    clock: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(status_line.shutil, "get_terminal_size", lambda: os.terminal_size((10, 24)))
    with StatusLine() as line:
        line.show(lambda: "one")
        line.show(lambda: "too soon")
        clock[0] += 1
        line.show(lambda: "two, is too wide")
        line.say("stays")
        clock[0] += 1
        line.show(lambda: "three")
    assert capsys.readouterr().err == "\r\033[Kone\r\033[Ktwo\r\033[Kstays\n\r\033[Kthree\r\033[K"


def test_a_log_has_lines_that_become_rare(
    clock: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    shown = []
    with StatusLine() as line:
        for second in range(86_400):
            line.show(lambda second=second: str(shown.append(second)))  # type: ignore[misc, func-returns-value]
            clock[0] += 1
    assert shown[0] == 10
    assert 100 < len(shown) < 300
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(shown)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d None", each) for each in lines)


def test_bar_and_duration() -> None:
    assert bar(0.5) == "[############............]  50%"
    assert bar(0.999999) == "[#######################.]  99%"
    assert (bar(0)[:3], bar(1)[-6:], bar(7)[-4:]) == ("[..", "] 100%", "100%")
    told = [duration(seconds) for seconds in (0, 59.6, 75, 3600 * 2 + 300, 86400 * 3 + 3600 * 4, -1)]
    assert told == ["0 s", "1 min 00 s", "1 min 15 s", "2 h 05 min", "3 d 4 h", "0 s"]


def test_progress_of_a_job() -> None:
    job = Job(
        job_id="one",
        state=number_of("running"),
        items_committed=100_000,
        counts=JobCounts(pending=57_000, running=1_000, succeeded=41_988, failed=12),
        items_per_s=812.4,
        tokens_per_s=16_240,
        eta_s=71.4,
    )
    assert progress_of(job) == (
        "[######..........]  42%  42,000 of 100,000, 12 failed, 1 min 11 s left, 812 items/s, 16,240 tokens/s"
    )
    paused = Job(state=number_of("paused"), items_committed=3, counts=JobCounts(pending=3))
    assert progress_of(paused) == "[................]   0%  0 of 3, paused"
    assert progress_of(Job(state=number_of("succeeded"))).endswith("100%  0 of 0, succeeded")


def test_summary_of_a_job() -> None:
    job = Job(
        job_id="one",
        state=number_of("partially_succeeded"),
        items_committed=2000,
        counts=JobCounts(succeeded=1000, failed=990, skipped=10),
        prompt_tokens=12_000,
        completion_tokens=345,
    )
    job.start_time.FromSeconds(100)
    job.end_time.FromSeconds(190)
    for number in range(10):
        job.error_summary.add(reason=f"R{number}", count=99 - number, sample_index=number)
    lines = summary_of(job).splitlines()
    head, figures = lines[0].split(": ")
    assert head == "Job one succeeded in part"
    assert figures == "1,000 of 2,000 items succeeded, 990 failed, 10 never ran, 12,345 tokens in 1 min 30 s."
    assert lines[1] == "  99 R0, such as the item with index 0"
    assert lines[-1] == "  and 2 other reasons"
    assert len(lines) == 10


def test_codes_of_ends() -> None:
    assert {state: code_of(state) for state in JobState if state.ended} == {
        JobState.SUCCEEDED: 0,
        JobState.PARTIALLY_SUCCEEDED: 5,
        JobState.FAILED: 6,
        JobState.CANCELLED: 6,
        JobState.EXPIRED: 6,
    }
