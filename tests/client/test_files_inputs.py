"""Files of inputs: every format, the fields of every task, and what is said of lines that give no input."""

import csv
import gzip
import importlib.util
import io
import json
import os
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import xlmstream.files
from hypothesis import given
from hypothesis import strategies as st
from xlmstream import Choices, Question, TextInput, TextPair, TokenIds
from xlmstream.files import BadLine, Fields, FileError, Format, Items, Source
from xlmstream.files import rows as rows_module
from xlmstream.files.inputs import DEFAULTS
from xlmstream.jobs import JobItem
from xlmstream.jobs.values import JOB_TASKS

needs_pyarrow = pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="needs pyarrow")


def read(
    path: Path, content: str | bytes, task: str = "embed", fields: Fields | None = None, **options: Any
) -> list[Any]:
    """Keys with inputs, or the words about a bad line, of a file with this content."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with Source(path, options.pop("format", None)) as source:
        items = Items(source, task, fields, **options)
        found = list(items.checked())
        assert list(items) == [one for one in found if isinstance(one, JobItem)]
    return [(one.key, one.input) if isinstance(one, JobItem) else str(one).removeprefix(f"{path}:") for one in found]


def parquet(path: Path, rows: list[dict[str, Any]], **options: Any) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    return path.read_bytes()


def test_json_lines(tmp_path: Path) -> None:
    content = (
        '\ufeff{"text": "one", "id": 7}\r\n\n{"sentence": "zwei\\nDrei", "lang": "de", "key": "k"}\n{"text": "\u2028"}'
    )
    assert read(tmp_path / "a.jsonl", content) == [
        ("7", "one"),
        ("k", TextInput(text="zwei\nDrei", language="de")),
        ("4", "\u2028"),
    ]


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_tables(tmp_path: Path, kind: str) -> None:
    mark = "," if kind == "csv" else "\t"
    content = "id,text,lang\nr1,one,\n,two,fr\n".replace(",", mark)
    assert read(tmp_path / f"a.{kind}", content) == [("r1", "one"), ("3", TextInput(text="two", language="fr"))]
    assert read(tmp_path / f"b.{kind}", f"one{mark}x\ntwo{mark}y\n", fields=Fields(text="2"), header=False) == [
        ("1", "x"),
        ("2", "y"),
    ]


def test_csv_records_span_lines_and_tsv_quotes_are_text(tmp_path: Path) -> None:
    assert read(tmp_path / "a.csv", 'text\n"a ""quoted"" word,\r\nand more"\r\nnext\r\n') == [
        ("2", 'a "quoted" word,\r\nand more'),
        ("4", "next"),
    ]
    assert read(tmp_path / "a.tsv", 'text\n"a\nb"\n') == [("2", '"a'), ("3", 'b"')]


def test_plain_lines(tmp_path: Path) -> None:
    assert read(tmp_path / "a.txt", "one\n\n two\t\n") == [("1", "one"), ("3", " two\t")]
    assert read(tmp_path / "b.txt", "one\tzwei\tb\nalone\n", "classify") == [
        ("1", TextPair("one", "zwei\tb")),
        ("2", "alone"),
    ]
    assert read(tmp_path / "c.txt", "Who?\tAda.\n", "answer") == [("1", Question("Who?", "Ada."))]
    assert read(tmp_path / "d.txt", "It\ta\tb\n", "choose") == [("1", Choices("It", ["a", "b"]))]


@needs_pyarrow
def test_parquet(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "text": "one", "unread": b"\xff" * 10, "language": None},
        {"id": None, "text": "deux", "unread": None, "language": "fr"},
    ]
    content = parquet(tmp_path / "made", rows, row_group_size=1)
    assert read(tmp_path / "a.parquet", content) == [("1", "one"), ("2", TextInput(text="deux", language="fr"))]
    ids = parquet(tmp_path / "made", [{"token_ids": [4, 5]}])
    assert read(tmp_path / "b.parquet", ids) == [("1", TextInput(token_ids=TokenIds(ids=[4, 5])))]
    listed = parquet(tmp_path / "made", [{"text": "It", "choices": ["a", "b"]}])
    assert read(tmp_path / "c.parquet", listed, "choose") == [("1", Choices("It", ["a", "b"]))]
    with pytest.raises(FileError, match="not readable as Parquet"):
        read(tmp_path / "d.parquet", "PAR1 no")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "xlmstream.files.parquet", raising=False)
    monkeypatch.delattr(xlmstream.files, "parquet", raising=False)
    with pytest.raises(FileError, match=r"pip install 'xlmstream\[parquet\]'"):
        read(tmp_path / "a.parquet", "")


@pytest.mark.parametrize(
    ("task", "row", "expected"),
    [
        ("classify", {"premise": "It rains.", "hypothesis": "It is wet."}, TextPair("It rains.", "It is wet.")),
        ("classify", {"text": "a", "pair": None}, "a"),
        ("answer", {"question": "Who?", "context": "Ada."}, Question("Who?", "Ada.")),
        ("choose", {"prompt": "It", "endings": ["a", "b"]}, Choices("It", ["a", "b"])),
        ("choose", {"text": "It", "choice1": "a", "choice2": "b", "choice3": ""}, Choices("It", ["a", "b"])),
        ("score", {"token_ids": [1, 2]}, TextInput(token_ids=TokenIds(ids=[1, 2]))),
    ],
)
def test_usual_names_of_fields(tmp_path: Path, task: str, row: dict[str, Any], expected: Any) -> None:
    assert read(tmp_path / "a.jsonl", json.dumps(row), task) == [("1", expected)]


def test_every_task_of_jobs_has_its_fields() -> None:
    assert set(DEFAULTS) == {name for name, _ in JOB_TASKS.values()}


def test_given_names_of_fields(tmp_path: Path) -> None:
    row = '{"text": "not this", "t": "a", "p": "b", "k": 0, "l": "en", "key": "nor this"}'
    fields = Fields(text="t", pair="p", key="k", language="l")
    text, pair = TextInput(text="a", language="en"), TextInput(text="b", language="en")
    assert read(tmp_path / "a.jsonl", row, "classify", fields) == [("0", TextPair(text, pair))]
    row = '{"q": "Who?", "c": "Ada."}'
    assert read(tmp_path / "a.jsonl", row, "answer", Fields(question="q", context="c")) == [
        ("1", Question("Who?", "Ada."))
    ]
    row = '{"text": "It", "x": "a", "y": ["b", "c"]}'
    assert read(tmp_path / "a.jsonl", row, "choose", Fields(choices=("x", "y"))) == [
        ("1", Choices("It", ["a", "b", "c"]))
    ]


def test_special_tokens_are_text_unless_allowed(tmp_path: Path) -> None:
    assert read(tmp_path / "a.txt", "</s>", allow_special_tokens=True) == [
        ("1", TextInput(text="</s>", allow_special_tokens=True))
    ]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", '{"text": 3}', "1: field 'text': a text is a string, or a list of token ids, not 3"),
        ("a.jsonl", '{"body": "x"}', "1: field 'text': missing; the line has 'body' (name another field with --text-f"),
        ("a.jsonl", '{"text": null}', "1: field 'text': null (name another field with --text-field)"),
        ("a.jsonl", '{"text": "a", "key": 1.5}', "1: field 'key': a key is a string or a whole number, not 1.5"),
        ("a.jsonl", '{"text": "a", "key": true}', "1: field 'key': a key is a string or a whole number, not True"),
        ("a.jsonl", json.dumps({"text": "a", "id": "é" * 129}), "1: field 'id': a key has at most 256 bytes, not 258"),
        ("a.jsonl", '{"text": "a", "lang": 2}', "1: field 'lang': a language is a string, not 2"),
        ("a.jsonl", '{"text": "\\ud800"}', "1: field 'text': not valid Unicode at character 0"),
        ("a.jsonl", '{"token_ids": [-1]}', "1: field 'token_ids': token ids: "),
        ("a.jsonl", '{"text": "a"', "1: not JSON: Expecting ',' delimiter at column 13"),
        ("a.jsonl", '[{"text": "a"},', '1: not JSON: .* jq -c ".[]" makes that of an array'),
        ("a.jsonl", '["a"]', "1: one JSON object a line is needed, not an array"),
        ("a.jsonl", '"a"', "1: one JSON object a line is needed, not a string"),
        ("a.jsonl", b'{"text": "\xff"}', "1: not UTF-8"),
        ("a.jsonl", "[" * 100_000, "1: not readable as JSON: "),
        ("a.jsonl", json.dumps({"text": "a" * 262_144}), "1: field 'text': an input has at most 261120 bytes in all"),
        ("a.txt", b"\xff\xfea\0", "1: not UTF-8"),
        ("a.csv", b"text\n\xe9\n", "2: field 'text': not valid Unicode at character 0 (is the file UTF-8?)"),
        ("a.csv", "text,id\na,1,b\n", "2: 3 fields, but the first line has 2"),
        ("a.csv", 'text\n"a"b\n', "2: not CSV: ',' expected after '\"'"),
        ("a.csv", 'text\n"a\nb\n', "2: not CSV: unexpected end of data (is a quote never closed?)"),
        ("a.tsv", "text\tid\na\n", "2: 1 fields, but the first line has 2"),
    ],
)
def test_bad_lines(tmp_path: Path, name: str, content: str | bytes, expected: str) -> None:
    [found] = read(tmp_path / name, content)
    plain = expected.partition(".*")[0]
    assert found.startswith(plain), found
    assert expected.rpartition(".*")[2] in found


def test_a_bad_line_leaves_the_others_alone(tmp_path: Path) -> None:
    read_lines = read(tmp_path / "a.jsonl", '{"text": "a"}\nno\n{"text": "b"}\n')
    assert [one if isinstance(one, tuple) else "bad" for one in read_lines] == [("1", "a"), "bad", ("3", "b")]
    read_lines = read(tmp_path / "a.csv", 'text\na\n"b"c\nd\n')
    assert [one if isinstance(one, tuple) else "bad" for one in read_lines] == [("2", "a"), "bad", ("4", "d")]


@pytest.mark.parametrize("task", ["answer", "choose"])
def test_what_the_task_needs(tmp_path: Path, task: str) -> None:
    part = "context" if task == "answer" else "choices"
    [found] = read(tmp_path / "a.jsonl", '{"question": "a", "text": "b"}', task)
    assert found.startswith(f"1: field '{part}': missing; the line has 'question', 'text'")
    [found] = read(tmp_path / "a.txt", "alone\n", task)
    assert found.startswith(f"1: field '{part}': missing")
    if task == "choose":
        [found] = read(tmp_path / "a.jsonl", '{"text": "b", "choices": []}', task)
        assert found == "1: field 'choices': no choice is given"


def test_a_key_field_that_is_named_must_be_there(tmp_path: Path) -> None:
    [found] = read(tmp_path / "a.jsonl", '{"text": "a"}', fields=Fields(key="n"))
    assert found == "1: field 'n': missing, but it is to be the key"


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_a_header_that_names_a_column_twice(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileError, match="names 'text' more than once"):
        read(tmp_path / name, "text,text\n".replace(",", "," if name == "a.csv" else "\t"))


def test_lines_without_an_end_are_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "MAX_LINE_BYTES", 1 << 20)
    long = "x" * (3 << 20)
    for name in ("a.txt", "a.jsonl"):
        found = read(tmp_path / name, f"{long}\n" + ("a" if name == "a.txt" else '{"text": "a"}'))
        assert found == ["1: longer than 1 MiB", ("2", "a")]
    with pytest.raises(FileError, match=":2: longer than 1 MiB"):
        read(tmp_path / "a.csv", f"text\n{long}\n")


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl"])
def test_gzip_is_known_by_its_content(tmp_path: Path, name: str) -> None:
    content = gzip.compress(b'{"text": "a"}\n') + gzip.compress(b'{"text": "b"}\n')
    assert read(tmp_path / name, content) == [("1", "a"), ("2", "b")]


@pytest.mark.parametrize("cut", [20, 30])
def test_damaged_gzip(tmp_path: Path, cut: int) -> None:
    content = bytearray(gzip.compress("".join(f'{{"text": "{i * 7919}"}}\n' for i in range(99)).encode()))
    content[cut:] = content[cut:-9] if cut == 20 else content[cut:][::-1]
    with pytest.raises(FileError, match="damaged gzip"):
        read(tmp_path / "a.jsonl.gz", bytes(content))


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    for path, words in (
        ("gone.jsonl", "No such file"),
        ("a.dat", "give --format jsonl|csv|tsv"),
        (".", "does not tell"),
    ):
        with pytest.raises(FileError, match=words):
            Source(tmp_path / path)
    with pytest.raises(FileError, match="standard input has no name"):
        Source("-")


def test_a_pipe_can_be_read_twice_and_is_known_by_its_content(tmp_path: Path) -> None:
    content = b"one\ntwo\n"
    (tmp_path / "a.txt").write_bytes(content)
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as pipe:
        pipe.write(content)
    try:
        with Source(f"/dev/fd/{reading}", Format.LINES) as piped, Source(tmp_path / "a.txt") as plain:
            assert [one.key for one in Items(piped, "embed")] == ["1", "2"]
            assert [one.input for one in Items(piped, "embed")] == ["one", "two"]
            assert piped.digest() == plain.digest()
            assert not piped.changed
    finally:
        os.close(reading)


def test_a_file_that_is_written_to_meanwhile_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\n")
    with Source(path) as source:
        assert not source.changed
        with path.open("a") as more:
            more.write("two\n")
        assert source.changed


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "txt", pytest.param("parquet", marks=needs_pyarrow)])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, kind: str) -> None:
    """Twenty times the rows take about the same memory."""
    sizes = []
    for count in (1_000, 12_000):
        path = tmp_path / f"{count}.{kind}"
        texts = (f"sentence number {i} of very many and all of them different" for i in range(count))
        if kind == "parquet":
            parquet(path, [{"text": text} for text in texts], row_group_size=1_000)
        else:
            head = {"csv": "text\n", "tsv": "text\n"}.get(kind, "")
            line = '{{"text": "{}"}}\n' if kind == "jsonl" else "{}\n"
            path.write_text(head + "".join(line.format(text) for text in texts))
        with Source(path) as source:
            tracemalloc.start()
            assert sum(1 for _ in Items(source, "embed")) == count
            sizes.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert sizes[1] < 1.5 * sizes[0] + (2 << 20)


TEXTS = st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")).filter(str.strip), min_size=1
)


@given(texts=TEXTS)
def test_what_is_written_as_csv_or_json_is_read_as_it_was(
    texts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("files")
    out = io.StringIO()
    csv.writer(out).writerows([["text"], *([text] for text in texts)])
    assert [text for _, text in read(directory / "a.csv", out.getvalue())] == texts
    lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    assert [text for _, text in read(directory / "a.jsonl", lines)] == texts


@given(content=st.binary(max_size=400), kind=st.sampled_from(["jsonl", "csv", "tsv", "txt"]))
def test_any_bytes_give_inputs_or_words_about_them(
    content: bytes, kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / f"fuzz.{kind}"
    path.write_bytes(content)
    with Source(path) as source:
        try:
            found = list(Items(source, "classify").checked())
        except FileError:
            return
    assert all(isinstance(one, JobItem | BadLine) for one in found)
