"""The commands of the tasks that do not generate, run in this process against a fake service."""

import io
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from xlmstream.cli import arguments, main
from xlmstream.cli.tasks import LAYOUTS
from xlmstream.tasks import TASKS
from xlmstream.testing import Failure, FakeServer


@pytest.fixture
def server() -> Any:
    with FakeServer({"bad": Failure("INVALID_INPUT", "embed.input.text: bad", field="embed.input.text")}) as server:
        yield server


@pytest.fixture
def xlmstream(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command line against the fake service; returns the exit code."""
    monkeypatch.setenv("XLMSTREAM_ADDRESS", server.address)
    return lambda line: main(shlex.split(line))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "fill-mask 'a <special1> c' --top-k 2",
            "SCORE   PLACE      TEXT\n0.5000  2:12       a one c\n0.2500  2:12       a two c\n",
        ),
        ("fill-mask 'a <special1>' --target b", "SCORE   PLACE      TEXT\n0.5000  2:12       a b\n"),
        (
            "classify 'so negative' fine --top-k 1",
            "SCORE   LABEL         TEXT\n0.8000  negative      so negative\n0.8000  positive      fine\n",
        ),
        (
            "tag 'Ada met Bob'",
            "SCORE   PLACE      LABEL     TEXT\n0.9000  0:3        NAME      Ada\n0.9000  8:11       NAME      Bob\n",
        ),
        ("answer 'Who?' 'It was Ada'", "SCORE   PLACE      ANSWER\n0.6000  7:10       Ada\n"),
        ("choose It aa bbbb", "SCORE   CHOICE\n0.6250  bbbb\n0.3750  aa\n"),
        ("score 'one two'", "LOG P      PERPLEXITY  TOKENS  TEXT\n-2.000     2.72        2       one two\n"),
    ],
)
def test_tables(xlmstream: Any, capsys: pytest.CaptureFixture[str], line: str, expected: str) -> None:
    assert xlmstream(line) == 0
    assert capsys.readouterr() == (expected, "")


def test_embed(xlmstream: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert xlmstream("embed one --dimensions 5") == 0
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split() == ["SHAPE", "NUMBERS", "TEXT"]
    assert re.fullmatch(r"5 +([+-]\d\.\d{4} ){4}\.\.\. +one", row)


def test_lines_of_standard_input_as_json(
    xlmstream: Any, server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"text {i}\n" for i in range(1000))))
    assert xlmstream("embed --json --pooling first --language fr") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["input"] for line in lines] == [f"text {i}" for i in range(1000)]
    assert all(len(line["embedding"]) == 8 for line in lines)
    assert lines[0]["usage"]["prompt_tokens"] == 2
    assert len(server.requests) < 200


@pytest.mark.parametrize(
    ("command", "line", "given"),
    [
        ("classify", "It rains.\tIt is wet.", {"text": "It rains.", "pair": "It is wet."}),
        ("answer", "Who?\tAda did.", {"question": "Who?", "context": "Ada did."}),
        ("choose", "It\ta\tb", {"prompt": "It", "choices": ["a", "b"]}),
    ],
)
def test_tabs_part_what_belongs_together(
    xlmstream: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    line: str,
    given: dict[str, Any],
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{line}\n"))
    assert xlmstream(f"{command} --json") == 0
    assert json.loads(capsys.readouterr().out)["input"] == given


@pytest.mark.parametrize("line", ["answer", "choose"])
def test_a_line_without_its_tab(
    xlmstream: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("no tab here\n"))
    assert xlmstream(line) == 2
    assert "with tabs between" in capsys.readouterr().err


def test_an_input_that_fails_leaves_the_others_alone(xlmstream: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert xlmstream("score bad good") == 2
    out, err = capsys.readouterr()
    assert out.splitlines()[1].endswith("good")
    assert err.startswith("xlmstream: input 1: embed.input.text: bad [INVALID_INPUT")
    assert xlmstream("score --json bad good") == 2
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["error"]["reason"], second["scored_tokens"]) == ("INVALID_INPUT", 1)


def test_progress_is_shown_to_a_person_whose_results_go_elsewhere(
    xlmstream: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xlmstream.cli.progress.PATIENCE_S", 0.0)
    monkeypatch.setattr("xlmstream.cli.progress.EVERY_S", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert xlmstream("score a b bad") == 2
    err = capsys.readouterr().err
    assert re.search(r"\r\033\[K2 done, \d+/s", err)
    assert re.search(r"3 done, \d+/s, 1 failed\r\033\[K$", err)


def test_a_file_gives_a_bar(
    xlmstream: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("xlmstream.cli.progress.PATIENCE_S", 0.0)
    monkeypatch.setattr("xlmstream.cli.progress.EVERY_S", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    (tmp_path / "lines").write_text("a\nb\nbad\nc", encoding="utf-8")
    with (tmp_path / "lines").open(encoding="utf-8") as lines:
        monkeypatch.setattr(sys, "stdin", lines)
        assert xlmstream("score") == 2
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 4  # the heading and three scores: counting took nothing away
    assert re.search(r"\r\033\[K\[#{12}\.{12}\]  50%  2 of 4, \d+/s, \d+ s left", err)
    assert re.search(r"\[#{24}\] 100%  4 of 4, \d+/s, 0 s left, 1 failed\r\033\[K$", err)


def test_no_progress_in_a_pipe(
    xlmstream: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xlmstream.cli.progress.PATIENCE_S", 0.0)
    assert xlmstream("score a b") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_keyword_has_its_flag(name: str) -> None:
    needed = ["--from", "en", "--to", "fr"] if name == "translate" else []
    parsed = vars(arguments.parser().parse_args([name.replace("_", "-"), *needed]))
    assert set(TASKS[name].keywords.__annotations__) - {"request_id"} <= set(parsed)
