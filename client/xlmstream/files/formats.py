"""From records to the bytes of a file, block by block, so that a file may be cut and continued between any two."""

from __future__ import annotations

import gzip
import itertools
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from xlmstream.files.records import Record, columns_of
from xlmstream.files.rows import PARQUET_MISSING
from xlmstream.files.source import FileError, Format, format_of
from xlmstream.tensor import Tensor

# Decimal digits that give back the same number of each type.
_DIGITS = {"float32": 9, "float16": 5, "bfloat16": 4}


class Encoder(Protocol):
    """How records become a file."""

    def block(self, records: Sequence[Record], *, first: bool) -> bytes:
        """The bytes of some records; `first` for those at the beginning of the file."""

    def finish(self, part: Path, path: Path) -> None:
        """Make the file at `path`, at once as a whole, of the blocks in `part`, which is gone then."""


def encoder_of(path: str | Path, task: str, form: Format | None = None) -> Encoder:
    """The encoder for a file of results, by its name or the format given. Raises FileError."""
    form = form or format_of(path, purpose="--output-format")
    zipped = Path(path).name.lower().endswith(".gz")
    match form:
        case Format.JSONL:
            return _Text(_JsonLines(), zipped)
        case Format.CSV:
            return _Text(_Table(columns_of(task), ",", _quoted), zipped)
        case Format.TSV:
            return _Text(_Table(columns_of(task), "\t", _backslashed), zipped)
        case Format.PARQUET:
            try:
                from xlmstream.files.parquet import ParquetEncoder
            except ImportError as error:
                raise FileError(PARQUET_MISSING) from error
            return ParquetEncoder(task)
        case Format.LINES:
            raise FileError(f"{path}: results are written as jsonl, csv, tsv or parquet; choose with --output-format")


def json_line(record: Record) -> str:
    """A record as one line of JSON, columns without a value left out."""
    cells = (f'"{name}": {_json(value)}' for name, value in record.items() if value is not None)
    return f"{{{', '.join(cells)}}}"


class _Text:
    """Lines of text, gzipped as a member for each block where asked for."""

    def __init__(self, lines: _JsonLines | _Table, zipped: bool) -> None:
        self._lines = lines
        self._zipped = zipped

    def block(self, records: Sequence[Record], *, first: bool) -> bytes:
        data = self._lines.text(records, first=first).encode()
        return gzip.compress(data, 6, mtime=0) if self._zipped and (data or first) else data

    def finish(self, part: Path, path: Path) -> None:
        os.replace(part, path)


class _JsonLines:
    def text(self, records: Sequence[Record], *, first: bool) -> str:
        return "".join(f"{json_line(record)}\n" for record in records)


class _Table:
    """A heading and a row for each record."""

    def __init__(self, columns: Sequence[str], mark: str, escaped: Callable[[str], str]) -> None:
        self._columns = columns
        self._mark = mark
        self._escaped = escaped

    def text(self, records: Sequence[Record], *, first: bool) -> str:
        rows = ([_cell(record.get(column)) for column in self._columns] for record in records)
        table = itertools.chain([self._columns], rows) if first else rows
        return "".join(self._mark.join(map(self._escaped, row)) + "\n" for row in table)


def _quoted(cell: str) -> str:
    """RFC 4180. A lone carriage return needs quotes as well, which Python's csv does not give it everywhere."""
    return '"' + cell.replace('"', '""') + '"' if any(mark in cell for mark in ',"\r\n') else cell


def _backslashed(cell: str) -> str:
    return cell.translate(_TSV_ESCAPES)


_TSV_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return _json(value) if isinstance(value, Tensor | list | dict) else str(value)


def _json(value: Any) -> str:
    return _tensor_json(value) if isinstance(value, Tensor) else json.dumps(value, ensure_ascii=False)


def _tensor_json(tensor: Tensor) -> str:
    """Nested lists, each number with as many digits as bring it back exactly."""
    numbers = tensor.numbers()
    if not all(map(math.isfinite, numbers)):  # what JSON cannot say, as Python's json says it
        return json.dumps(tensor.tolist())
    *outer, width = tensor.shape
    row = ", ".join([f"%.{_DIGITS[tensor.dtype]}g"] * width)
    rows = [f"[{row % numbers[at * width : (at + 1) * width]}]" for at in range(math.prod(outer))]
    for size in reversed(outer):
        rows = [f"[{', '.join(rows[at : at + size])}]" for at in range(0, len(rows), size)]
    return rows[0]
