"""The demo: what it shows with, and the whole tour, as `make demo` runs it."""

import importlib.util
import io
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from xlmstream import Timing

EXAMPLES = Path(__file__).parents[2] / "examples"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def showing() -> ModuleType:
    spec = importlib.util.spec_from_file_location("showing", EXAMPLES / "showing.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["showing"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def screen(written: str) -> list[str]:
    """What a terminal shows after this: lines, the cursor moving up, text cleared to the end of a line."""
    lines: list[str] = [""]
    row = 0
    for part in written.replace("\x1b[K", "").split("\x1b["):
        text = part
        if part and part[0].isdigit():
            up, _, text = part.partition("A")
            row -= int(up)
        for place, line in enumerate(text.split("\n")):
            row += place > 0
            lines += [""] * (row + 1 - len(lines))
            if line or place > 0:
                lines[row] = line.rpartition("\r")[2] if line else lines[row]
    return lines


def test_columns_grow_in_place_on_a_terminal_and_are_written_once_in_a_file(
    showing: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "41")
    shown: dict[type, list[str]] = {}
    for kind in (Terminal, io.StringIO):
        out = kind()
        monkeypatch.setattr(sys, "stdout", out)
        columns = showing.Columns(["[en]", "[fr]"])
        for column, text in ((0, "one two three"), (1, "un deux trois quatre"), (0, " four five")):
            columns.add(column, text)
        columns.finish()
        shown[kind] = screen(out.getvalue())
        if kind is io.StringIO:
            assert "\x1b" not in out.getvalue()
    assert shown[Terminal] == shown[io.StringIO]
    assert shown[io.StringIO] == [
        "[en]                 [fr]",
        "one two three four   un deux trois",
        "five                 quatre",
        "",
    ]


def test_a_bar_tells_quarters_in_a_file(showing: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    bar = showing.Bar("work")
    for done in range(9):
        bar.show(done, 8)
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition(" ")[2] for line in lines] == ["0/8", "2/8", "4/8", "6/8", "8/8"]
    assert lines[-1].count("#") == showing.BAR


def test_times_are_means_and_add_up(showing: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    times = showing.Times()
    times.note("embed", 0.5, [Timing(1000, 2000, 3000, 10000, "w", 4), Timing(3000, 2000, 5000, 12000, "w", 8)])
    assert "2.0 queue, 2.0 tokenise, 4.0 compute, 3.0 other" in capsys.readouterr().out
    head, row = times.table().splitlines()
    assert row.split() == ["embed", "2", "0.50", "2.0", "2.0", "4.0", "3.0", "8"]
    assert len(head) == len(row)


def test_prose_is_set_as_people_write(showing: ModuleType) -> None:
    prose = showing.Prose()
    assert "".join(map(prose.next, [" l'", " eau", " ,", " bleue", " ."])) == " l'eau, bleue."


def test_the_whole_tour(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "demo.py")], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for heading in (
        "A continuation",
        "Filling a gap",
        "Finding",
        "Tagging words",
        "Marking names",
        "Answering",
        "Telling",
        "An offline job",
    ):
        assert f"\n{heading}" in done.stdout
    assert "160/160" in done.stdout
    assert "\x1b" not in done.stdout
    steps = [
        line.split()[0] for line in done.stdout.partition("Where the time")[2].splitlines() if line.startswith("  ")
    ]
    assert steps == ["step", "generate", "fill_mask", "embed", "tag", "names", "answer", "classify", "job"]
