"""From the bytes of a file to rows of named fields, each with its line number. Knows no task."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from xlmstream.files.source import FileError, Format, Source

# Far beyond what any model takes; a file without line ends must not be read into memory whole.
MAX_LINE_BYTES = 16 << 20
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Row:
    """One row.

    Attributes:
        line: where it begins, from 1; for Parquet the number of the row.
        fields: its values by name.
    """

    line: int
    fields: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be read, and why."""

    line: int
    problem: str


def rows(
    source: Source,
    *,
    header: bool = True,
    columns: Sequence[str] = ("text",),
    wanted: Callable[[str], bool] | None = None,
) -> Iterator[Row | BadRow]:
    """The rows of a file, read as they are asked for. Raises FileError where the file as a whole is wrong.

    header: whether the first line of CSV and TSV has the names; otherwise they are "1", "2" and so on.
    columns: for plain lines, the names of what tabs part; a last name that ends in "*" takes all the rest.
    wanted: for Parquet, whether a column is to be read; None reads all.
    """
    with source.open() as stream:
        match source.format:
            case Format.JSONL:
                yield from _json_rows(stream)
            case Format.CSV | Format.TSV:
                yield from _table_rows(source.name, stream, source.format, header=header)
            case Format.PARQUET:
                yield from _parquet_rows(source.name, stream, wanted)
            case Format.LINES:
                yield from _plain_rows(stream, columns)


def _json_rows(stream: BinaryIO) -> Iterator[Row | BadRow]:
    for number, line in _lines(stream):
        if isinstance(line, BadRow):
            yield line
        elif line.strip():
            yield _json_row(number, line)


def _json_row(number: int, line: bytes) -> Row | BadRow:
    try:
        fields = json.loads(line.decode())
    except UnicodeDecodeError:
        return BadRow(number, "not UTF-8")
    except json.JSONDecodeError as error:
        whole = ' (one object a line is needed: jq -c ".[]" makes that of an array)' if line[:1] == b"[" else ""
        return BadRow(number, f"not JSON: {error.msg} at column {error.colno}{whole}")
    except (ValueError, RecursionError) as error:
        return BadRow(number, f"not readable as JSON: {error}")
    if not isinstance(fields, dict):
        return BadRow(number, f"one JSON object a line is needed, not {_KINDS[type(fields)]}")
    return Row(number, fields)


_KINDS = {list: "an array", str: "a string", int: "a number", float: "a number", bool: "a boolean", type(None): "null"}


def _plain_rows(stream: BinaryIO, columns: Sequence[str]) -> Iterator[Row | BadRow]:
    *names, last = columns
    for number, line in _lines(stream):
        if isinstance(line, BadRow):
            yield line
            continue
        try:
            text = line.decode()
        except UnicodeDecodeError:
            yield BadRow(number, "not UTF-8")
            continue
        if not text.strip():
            continue
        parts = text.split("\t") if last.endswith("*") else text.split("\t", len(names))
        fields: dict[str, object] = dict(zip(names, parts, strict=False))
        rest = parts[len(names) :]
        if rest:
            fields[last.removesuffix("*")] = rest if last.endswith("*") else rest[0]
        yield Row(number, fields)


def _table_rows(name: str, stream: BinaryIO, kind: Format, *, header: bool) -> Iterator[Row | BadRow]:
    records = _csv_records(name, stream) if kind is Format.CSV else _tsv_records(stream)
    names: list[str] | None = None
    for number, record in records:
        if isinstance(record, BadRow):
            yield record
        elif names is None and header:
            names = record
            _check_header(name, names)
        else:
            if names is None:
                names = [str(column + 1) for column in range(len(record))]
            if len(record) != len(names):
                yield BadRow(number, f"{len(record)} fields, but the first line has {len(names)}")
            else:
                yield Row(number, dict(zip(names, record, strict=True)))


def _check_header(name: str, names: Sequence[str]) -> None:
    twice = sorted({one for one in names if names.count(one) > 1})
    if twice:
        raise FileError(f"{name}: the first line names {', '.join(map(repr, twice))} more than once")


def _tsv_records(stream: BinaryIO) -> Iterator[tuple[int, list[str] | BadRow]]:
    for number, line in _lines(stream):
        if isinstance(line, BadRow):
            yield number, line
        elif line.strip(b"\r\n"):
            yield number, line.decode(errors="surrogateescape").split("\t")


def _csv_records(name: str, stream: BinaryIO) -> Iterator[tuple[int, list[str] | BadRow]]:
    """A record may span lines; bytes that are no UTF-8 become lone surrogates, which no text may have."""
    reader = csv.reader(_csv_lines(name, stream), strict=True)
    while True:
        begin = reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            hint = " (is a quote never closed?)" if reader.line_num > begin else ""
            yield begin, BadRow(begin, f"not CSV: {error}{hint}")
            continue
        if record:
            yield begin, record


def _csv_lines(name: str, stream: BinaryIO) -> Iterator[str]:
    for number, line in _lines(stream, keep_ends=True):
        if isinstance(line, BadRow):  # where its record ends cannot be known
            raise FileError(f"{name}:{number}: {line.problem}")
        yield line.decode(errors="surrogateescape")


def _lines(stream: BinaryIO, *, keep_ends: bool = False) -> Iterator[tuple[int, bytes | BadRow]]:
    """Numbered lines, the byte order mark and by default the line ends taken off; only "\\n" and "\\r\\n" end lines."""
    number = 0
    while line := stream.readline(MAX_LINE_BYTES):
        number += 1
        if number == 1:
            line = line.removeprefix(_BOM)
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            while (rest := stream.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield number, BadRow(number, f"longer than {MAX_LINE_BYTES >> 20} MiB")
        else:
            yield number, line if keep_ends else line.rstrip(b"\r\n")


def _parquet_rows(name: str, stream: BinaryIO, wanted: Callable[[str], bool] | None) -> Iterator[Row]:
    try:
        from xlmstream.files import parquet
    except ImportError as error:
        raise FileError(PARQUET_MISSING) from error
    for number, fields in enumerate(parquet.rows(name, stream, wanted), start=1):
        yield Row(number, fields)


PARQUET_MISSING = "Parquet needs pyarrow, which is not installed: pip install 'xlmstream[parquet]'"
