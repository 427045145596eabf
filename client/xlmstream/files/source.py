"""A file to read more than once: opened once, decompressed as it is read, known by what is in it."""

from __future__ import annotations

import enum
import gzip
import hashlib
import io
import os
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, cast

STDIN = "-"
_GZIP_MAGIC = b"\x1f\x8b"


class FileError(Exception):
    """A file cannot be read or written as asked; the message names it and says what to do."""


class Format(enum.StrEnum):
    """How a file holds its rows."""

    JSONL = "jsonl"
    """One JSON object a line."""
    CSV = "csv"
    """Comma-separated, quoted as RFC 4180 says."""
    TSV = "tsv"
    """Tab-separated; nothing is quoted."""
    PARQUET = "parquet"
    LINES = "lines"
    """One input a line; tabs part what belongs together."""


_EXTENSIONS = {
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".csv": Format.CSV,
    ".tsv": Format.TSV,
    ".tab": Format.TSV,
    ".parquet": Format.PARQUET,
    ".pq": Format.PARQUET,
    ".txt": Format.LINES,
    ".lines": Format.LINES,
}


def format_of(path: str | Path, *, purpose: str = "--format") -> Format:
    """The format that a file's name tells, a trailing ".gz" aside. Raises FileError, naming the flag `purpose`."""
    name = Path(path).name.lower().removesuffix(".gz")
    found = _EXTENSIONS.get(Path(name).suffix)
    if found is None:
        raise FileError(f"{path}: the name does not tell the format; give {purpose} {'|'.join(Format)}")
    return found


class Source:
    """A file of inputs; a context manager.

    What cannot be read twice, such as a pipe, is copied to a temporary file first: so that it can be checked before
    anything of it is sent, and is known by its content when the same is piped in again.

    Attributes:
        name: what messages call it.
        format: how its rows are held.
    """

    def __init__(self, path: str | Path, format: Format | None = None) -> None:  # noqa: A002 - the field's word
        """Opens the file; "-" is standard input. Raises FileError."""
        self.name = "standard input" if str(path) == STDIN else str(path)
        if format is None and str(path) == STDIN:
            raise FileError(f"standard input has no name that tells its format; give --format {'|'.join(Format)}")
        self.format = format or format_of(path)
        try:
            self._file = _opened(path)
        except OSError as error:
            raise FileError(f"{path}: {error.strerror}") from error
        if not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
            self._file = _spooled(self._file)
        self._at_first = self._identity()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The content from its beginning, decompressed; one reader at a time. Raises FileError where it is damaged."""
        with self._raw() as raw:
            magic = raw.read(len(_GZIP_MAGIC))
            raw.seek(0)
            try:
                if magic == _GZIP_MAGIC:
                    with gzip.GzipFile(fileobj=raw) as unzipped:
                        yield cast(BinaryIO, io.BufferedReader(unzipped, 1 << 20))
                else:
                    yield raw
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise FileError(f"{self.name}: damaged gzip: {error}") from error
            except OSError as error:
                raise FileError(f"{self.name}: {error.strerror or error}") from error

    def digest(self) -> str:
        """SHA-256 of the file as it lies there, in hexadecimal."""
        with self._raw() as raw:
            return hashlib.file_digest(cast(io.BufferedReader, raw), "sha256").hexdigest()

    @property
    def changed(self) -> bool:
        """Whether the file was written to since it was opened."""
        return self._identity() != self._at_first

    @contextmanager
    def _raw(self) -> Iterator[BinaryIO]:
        """A handle of its own, so that closing it closes nothing else; it shares the place with all others."""
        with os.fdopen(os.dup(self._file.fileno()), "rb") as raw:
            raw.seek(0)
            yield raw

    def _identity(self) -> tuple[int, int]:
        status = os.fstat(self._file.fileno())
        return status.st_size, status.st_mtime_ns


def _opened(path: str | Path) -> BinaryIO:
    """A handle of our own, also where it is standard input."""
    return os.fdopen(os.dup(sys.stdin.fileno()), "rb") if str(path) == STDIN else Path(path).open("rb")


def _spooled(stream: BinaryIO) -> BinaryIO:
    """The rest of a stream in a file that vanishes with its handle."""
    spool = tempfile.TemporaryFile()  # noqa: SIM115 - its owner closes it
    with stream:
        shutil.copyfileobj(stream, spool, 1 << 20)
    spool.flush()
    return cast(BinaryIO, spool)
