"""Files of results: every format says the same, and a file that is left at any point is continued to the same bytes."""

import csv
import functools
import gzip
import importlib.util
import io
import json
import os
import random
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xlmstream import Choices, Client, InvalidInput, Question, Tensor
from xlmstream.files import FileError, Format, ResultFile
from xlmstream.files import output as output_module
from xlmstream.files.formats import json_line
from xlmstream.files.records import SHAPES, columns_of, record_of
from xlmstream.jobs import JobResult
from xlmstream.jobs.values import JOB_TASKS
from xlmstream.testing import FakeServer

needs_pyarrow = pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="needs pyarrow")
PARQUET = pytest.param("parquet", marks=needs_pyarrow)
NASTY = 'a "quoted", \\ text\nwith\ttabs\r and 漢字 \u2028'
INPUTS: dict[str, Any] = {
    "fill_mask": "a <special1> b",
    "answer": Question("Who?", "It was Ada"),
    "choose": Choices("It", ["aa", "bbbb"]),
}
KEYWORDS: dict[str, Any] = {
    "generate": {"seed": (1 << 64) - 1, "temperature": 1.0},
    "translate": {"source_language": "fr", "target_language": "en", "num_beams": 2},
    "tag": {"include_tokens": True},
    "score": {"include_tokens": True},
}


@functools.cache
def value_of(task: str) -> Any:
    """What the fake service gives."""
    with FakeServer({"Ada met Bob": NASTY}) as server, Client(server.address) as client:
        [mapped] = client.map(task, [INPUTS.get(task, "Ada met Bob")], **KEYWORDS.get(task, {}))  # type: ignore[call-overload]
    assert mapped.result.usage.prompt_tokens
    return mapped.result


def results_of(task: str, count: int) -> list[JobResult[Any]]:
    """Results of one input; every seventh has failed."""
    good = {"error": None, "value": value_of(task)}
    bad = {"error": InvalidInput(NASTY, reason="INVALID_INPUT"), "value": None}
    return [JobResult(index=i, key=f"k{i}", attempt=1, **(bad if i % 7 == 3 else good)) for i in range(count)]


def write(path: Path, task: str, results: list[JobResult[Any]]) -> None:
    with ResultFile(path, task, "job") as out:
        for number, result in enumerate(results, start=1):
            out.add(record_of(task, result), str(number))
        out.finish()
    assert [one.name for one in path.parent.iterdir()] == [path.name], "nothing is left beside it"


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a file, columns without a value left out."""
    name, data = path.name.removesuffix(".gz"), path.read_bytes()
    if name.endswith(".parquet"):
        import pyarrow.parquet as pq

        return [without_none(row) for row in pq.read_table(path).to_pylist()]
    text = (gzip.decompress(data) if name != path.name else data).decode()
    if name.endswith(".jsonl"):
        return [json.loads(line) for line in text.split("\n")[:-1]]
    if name.endswith(".csv"):
        table = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    else:
        table = [[unescaped(cell) for cell in line.split("\t")] for line in text.split("\n")[:-1]]
    return [{name: cell for name, cell in zip(table[0], row, strict=True) if cell != ""} for row in table[1:]]


def without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_none(each) for name, each in value.items() if each is not None}
    return [without_none(each) for each in value] if isinstance(value, list) else value


def unescaped(cell: str) -> str:
    return cell.replace("\\\\", "\0").replace("\\t", "\t").replace("\\n", "\n").replace("\\r", "\r").replace("\0", "\\")


def same(left: Any, right: Any) -> bool:
    """Equal, numbers as float32; a cell of a table as the JSON it holds."""
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[name], right[name]) for name in left)
    if isinstance(left, list):
        right = json.loads(right) if isinstance(right, str) else right
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float):
        return struct.pack("<f", left) == struct.pack("<f", float(right))
    return left == right or str(left) == right


@pytest.mark.parametrize("task", SHAPES)
@pytest.mark.parametrize("kind", ["csv", "tsv", "csv.gz", "jsonl.gz", PARQUET])
def test_every_format_says_what_json_lines_say(tmp_path: Path, task: str, kind: str) -> None:
    results = results_of(task, 9)
    (tmp_path / "json").mkdir()
    (tmp_path / "other").mkdir()
    write(tmp_path / "json" / "a.jsonl", task, results)
    write(tmp_path / "other" / f"a.{kind}", task, results)
    expected, found = read(tmp_path / "json" / "a.jsonl"), read(tmp_path / "other" / f"a.{kind}")
    assert [row["key"] for row in expected] == [f"k{i}" for i in range(9)]
    assert len(expected) == len(found)
    for left, right in zip(map(without_none, expected), found, strict=True):
        present = {name: value for name, value in left.items() if value != ""}
        if kind.startswith(("csv", "tsv")):  # nested columns are JSON there
            right = {
                n: without_none(json.loads(v)) if isinstance(present.get(n), list) else v for n, v in right.items()
            }
        assert same(present, right), (present, right)


def test_what_a_record_has() -> None:
    good, bad = (record_of("generate", one) for one in results_of("generate", 4)[2:])
    assert json.loads(json_line(good)) == {
        "index": 2,
        "key": "k2",
        "attempt": 1,
        "text": NASTY,
        "finish_reason": "eos",
        "token_ids": good["token_ids"],
        "seed": (1 << 64) - 1,
        "prompt_tokens": 3,
        "completion_tokens": 8,
    }
    assert json.loads(json_line(bad)) == {
        "index": 3,
        "key": "k3",
        "attempt": 1,
        "error_reason": "INVALID_INPUT",
        "error_message": NASTY,
    }


def test_every_task_of_jobs_has_its_columns() -> None:
    assert set(SHAPES) == {name for name, _ in JOB_TASKS.values()}
    for task in SHAPES:
        assert len(set(columns_of(task))) == len(columns_of(task))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@given(data=st.data())
def test_numbers_of_vectors_come_back_exactly(dtype: str, data: st.DataObject) -> None:
    width, rows = data.draw(st.integers(0, 5)), data.draw(st.integers(1, 3))
    size = (4 if dtype == "float32" else 2) * width * rows
    raw = data.draw(st.binary(min_size=size, max_size=size))
    tensor = Tensor(dtype, (rows, width), raw)
    given_back = json.loads(json_line({"embedding": tensor}))["embedding"]
    assert [len(row) for row in given_back] == [width] * rows
    kind = {"float32": "f", "float16": "e"}.get(dtype, "f")
    flat = [number for row in given_back for number in row]
    for expected, found in zip(tensor.numbers(), flat, strict=True):
        if expected != expected:
            assert found != found
        elif dtype == "bfloat16":
            assert struct.pack("<f", expected)[2:] == rounded_bfloat16(found)
        else:
            assert struct.pack(kind, expected) == struct.pack(kind, found)


def rounded_bfloat16(value: float) -> bytes:
    """The upper half of the nearest float32, rounded to nearest."""
    [bits] = struct.unpack("<I", struct.pack("<f", value))
    return struct.pack("<I", bits + 0x7FFF + (bits >> 16 & 1))[2:]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "jsonl.gz", PARQUET])
def test_a_file_that_is_left_anywhere_is_continued(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a killed program leaves behind: bytes that the state does not count, or none."""
    monkeypatch.setattr(output_module, "COMMIT_RECORDS", 5)
    monkeypatch.setattr(output_module, "COMMIT_EVERY_S", 1e9)
    records = [record_of("classify", one) for one in results_of("classify", 200)]
    path, random_ = tmp_path / f"a.{kind}", random.Random(5)
    runs = begin = 0
    while not path.exists():
        out = ResultFile(path, "classify", "job", selection="input")
        assert out.results == int(out.cursor or 0) == begin
        stop = min(len(records), begin + random_.randrange(40))
        for index in range(begin, stop):
            out.add(records[index], str(index + 1) if index % 5 == 4 else None)
        if stop == len(records):
            out.finish()
        else:  # killed: what waits is lost, what is half written stays
            out._file.write(random_.randbytes(random_.randrange(30)))
            out._file.close()
            begin += (stop - begin) // 5 * 5
        runs += 1
    assert runs > 5
    assert [int(row["index"]) for row in read(path)] == list(range(200))
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_an_interruption_within_a_commit_neither_doubles_nor_tears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in front of, within and behind every call that makes a commit."""
    monkeypatch.setattr(output_module, "COMMIT_EVERY_S", 0.0)
    calls = at = 0

    def count() -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            raise KeyboardInterrupt

    def watched(call: Any) -> Any:
        def run(*given: Any) -> Any:
            count()
            result = call(*given)
            count()
            return result

        return run

    append = ResultFile._append

    def torn(self: ResultFile, block: bytes, *given: Any) -> None:
        if calls + 1 == at:
            self._file.write(block[:5])
        watched(append)(self, block, *given)

    monkeypatch.setattr(output_module, "_sync", watched(output_module._sync))
    monkeypatch.setattr(output_module.os, "replace", watched(os.replace))
    monkeypatch.setattr(ResultFile, "_append", torn)
    while calls >= at:  # until nothing is left to be interrupted
        calls, at = 0, at + 1
        path = tmp_path / f"{at}.jsonl"
        while not path.exists():
            with suppress(KeyboardInterrupt), ResultFile(path, "score", "job") as out:
                for index in range(int(out.cursor or 0), 3):
                    out.add({"index": index}, str(index + 1))
                out.finish()
        assert path.read_text() == '{"index": 0}\n{"index": 1}\n{"index": 2}\n', at
    assert at > 20


def test_what_was_broken_off_is_not_written_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ResultFile(tmp_path / "a.jsonl", "score", "job") as out:
        out.add({"index": 0}, "1")
        monkeypatch.setattr(output_module, "_sync", raise_interrupt)
        with pytest.raises(KeyboardInterrupt):
            out.commit()
        monkeypatch.undo()
        with pytest.raises(FileError, match="open the file again"):
            out.finish()


def raise_interrupt(_: Any) -> None:
    raise KeyboardInterrupt


def test_leaving_the_block_keeps_everything(tmp_path: Path) -> None:
    with ResultFile(tmp_path / "a.jsonl", "score", "job") as out:
        out.add({"index": 0}, "1")
        out.add({"index": 1}, None)  # whose place is not known: it is read again
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.jsonl.part", "a.jsonl.part.json"]
    assert (tmp_path / "a.jsonl.part").read_text() == '{"index": 0}\n'
    with ResultFile(tmp_path / "a.jsonl", "score", "job") as out:
        assert (out.cursor, out.results) == ("1", 1)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "csv.gz", "jsonl.gz", PARQUET])
def test_no_results_are_a_file_as_well(tmp_path: Path, kind: str) -> None:
    write(tmp_path / f"a.{kind}", "score", [])
    assert read(tmp_path / f"a.{kind}") == []


def test_a_finished_file_replaces_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("before")
    out = ResultFile(path, "score", "job")
    out.add({"index": 0}, "1")
    out.commit()
    assert path.read_text() == "before"
    out.finish()
    assert path.read_text() == '{"index": 0}\n'


def test_results_of_something_else_are_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with ResultFile(path, "score", "one", selection="input") as out:
        out.add({"index": 0}, "1")
    for job, selection, form, words in (
        ("two", "input", None, "unfinished results of job one"),
        ("one", "completion", None, "another order or form"),
        ("one", "input", Format.CSV, "another order or form"),
    ):
        with pytest.raises(FileError, match=words):
            ResultFile(path, "score", job, selection=selection, form=form)
    (tmp_path / "b.jsonl.part").write_text("mine")
    with pytest.raises(FileError, match="in the way"):
        ResultFile(tmp_path / "b.jsonl", "score", "one")
    assert (tmp_path / "b.jsonl.part").read_text() == "mine"
    (tmp_path / "c.jsonl.part").write_text("mine")
    (tmp_path / "c.jsonl.part.json").write_text("no state")
    with pytest.raises(FileError, match="not readable"):
        ResultFile(tmp_path / "c.jsonl", "score", "one")


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    with (
        ResultFile(tmp_path / "a.jsonl", "score", "one"),
        pytest.raises(FileError, match="another program is writing it"),
    ):
        ResultFile(tmp_path / "a.jsonl", "score", "one")


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="No such file or directory"):
        ResultFile(tmp_path / "none" / "a.jsonl", "score", "job")
    with pytest.raises(FileError, match="give --output-format"):
        ResultFile(tmp_path / "a.dat", "score", "job")
    with pytest.raises(FileError, match="results are written as jsonl, csv, tsv or parquet"):
        ResultFile(tmp_path / "a.txt", "score", "job")


def test_a_full_disk_keeps_what_was_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Any) -> None:
        raise OSError(28, "No space left on device")

    with ResultFile(tmp_path / "a.jsonl", "score", "job") as out:
        out.add({"index": 0}, "1")
        out.commit()
        monkeypatch.setattr(output_module, "_sync", full)
        out.add({"index": 1}, "2")
        with pytest.raises(FileError, match="No space left on device; what is written can be continued"):
            out.commit()
    monkeypatch.undo()
    with ResultFile(tmp_path / "a.jsonl", "score", "job") as out:
        assert (out.cursor, out.results) == ("1", 1)
        out.finish()
    assert (tmp_path / "a.jsonl").read_text() == '{"index": 0}\n'
