"""A file of results that grows beside its name and can be continued by another process, without a gap or a repeat.

`results.jsonl.part` holds what is written so far, `results.jsonl.part.json` which results these are, how many bytes of
the part are whole and where the next result is read. The state is replaced at once and only after its bytes are safe;
bytes beyond it are cut off when the file is continued. When all is there the part takes the final name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from xlmstream.files.formats import Encoder, encoder_of
from xlmstream.files.records import Record
from xlmstream.files.source import FileError, Format

try:
    import fcntl
except ImportError:  # not a Unix: two programs that write one file are not noticed there
    fcntl = None  # type: ignore[assignment]

# How much may have to be read again after a crash.
COMMIT_EVERY_S = 1.0
COMMIT_RECORDS = 1024


@dataclass(frozen=True, slots=True)
class _State:
    """What is known of a part.

    Attributes:
        job_id, selection, format: which results it holds, in which order and form; another selection is another file.
        bytes: how much of the part is whole.
        results: how many results those bytes are.
        cursor: where the next result is read.
    """

    job_id: str
    selection: str
    format: str
    bytes: int = 0
    results: int = 0
    cursor: str = ""


class ResultFile:
    """Results on their way into a file; a context manager. Leaving it keeps what is written, to be continued.

    >>> with ResultFile("out.jsonl", "classify", job.id) as out, job.results(cursor=out.cursor) as results:
    ...     for result in results:
    ...         out.add(record_of("classify", result), None if results.buffered else results.cursor)
    ...     out.finish()
    """

    def __init__(
        self, path: str | Path, task: str, job_id: str, *, selection: str = "", form: Format | None = None
    ) -> None:
        """Opens the part, continuing where it is one of the same results. Raises FileError where it is of others.

        selection: what else decides which results come in which order.
        """
        self._path = Path(path)
        self._encoder: Encoder = encoder_of(path, task, form)
        self._part = self._path.with_name(f"{self._path.name}.part")
        self._state_path = self._path.with_name(f"{self._part.name}.json")
        self._state = _State(job_id, selection, str(form or self._path.suffix))
        self._waiting: list[Record] = []
        self._placed = 0
        self._whole = True
        self._cursor = ""
        self._due = time.monotonic() + COMMIT_EVERY_S
        self._file = self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._file.closed:
            with contextlib.closing(self._file):
                # What a commit wrote that was broken off may be counted already, or be half a block.
                if self._whole:
                    self.commit()

    @property
    def cursor(self) -> str:
        """Where reading continues: of results that are not in the file yet, the first."""
        return self._state.cursor

    @property
    def results(self) -> int:
        """Results that are safely in the file."""
        return self._state.results

    def add(self, record: Record, cursor: str | None) -> None:
        """One more result, and the place behind it; None where that is not known, as within a message.

        What stands before the last place known becomes safe with the next commit, about a second away.
        """
        self._waiting.append(record)
        if cursor is not None:
            self._cursor, self._placed = cursor, len(self._waiting)
            if self._placed >= COMMIT_RECORDS or time.monotonic() >= self._due:
                self.commit()

    def commit(self) -> None:
        """Make safe what stands before the last place known."""
        if not self._whole:
            raise FileError(f"{self._part}: writing was broken off; open the file again to continue")
        if self._placed:
            self._whole = False
            block = self._encoder.block(self._waiting[: self._placed], first=not self._state.bytes)
            self._append(block, self._state.results + self._placed, self._cursor)
            del self._waiting[: self._placed]
            self._placed = 0
            self._whole = True
        self._due = time.monotonic() + COMMIT_EVERY_S

    def finish(self) -> None:
        """All results are there: the file appears under its name, replacing one that was there.

        Raises ValueError where the place behind the last result was not told.
        """
        self.commit()
        if self._waiting:
            raise ValueError("the place behind the last result is not known")
        if not self._state.bytes:
            self._append(self._encoder.block([], first=True), 0, "")
        self._encoder.finish(self._part, self._path)
        self._file.close()
        self._state_path.unlink(missing_ok=True)

    def _append(self, block: bytes, results: int, cursor: str) -> None:
        """Write, then count what is written. After a failure the file is closed: it may end with half a block."""
        try:
            self._file.write(block)
            _sync(self._file)
            size = self._state.bytes + len(block)
            self._state = dataclasses.replace(self._state, bytes=size, results=results, cursor=cursor)
            self._save()
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.close()
            raise FileError(f"{self._part}: {error.strerror}; what is written can be continued") from error

    def _save(self) -> None:
        new = self._state_path.with_name(f"{self._state_path.name}.new")
        with new.open("w", encoding="utf-8") as file:
            json.dump(dataclasses.asdict(self._state), file)
            _sync(file)
        os.replace(new, self._state_path)

    def _open(self) -> IO[bytes]:
        try:
            file = self._part.open("ab")
        except OSError as error:
            raise FileError(f"{self._part}: {error.strerror}") from error
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._resume(file)
        except BaseException as error:
            file.close()
            if isinstance(error, BlockingIOError):
                raise FileError(f"{self._part}: another program is writing it") from error
            raise
        return file

    def _resume(self, file: IO[bytes]) -> None:
        """Take up the state of the part where there is one, and cut off what it does not count."""
        size, found = file.seek(0, os.SEEK_END), self._found()
        if size and found is None:
            raise FileError(f"{self._part}: is in the way and not ours; remove it, or choose another --output")
        if size and found is not None and found.bytes <= size:
            wanted, there = self._state, (found.job_id, found.selection, found.format)
            if there != (wanted.job_id, wanted.selection, wanted.format):
                other = f"job {found.job_id}" if found.job_id != wanted.job_id else "this job in another order or form"
                raise FileError(
                    f"{self._part}: holds unfinished results of {other}; finish those, remove the file, "
                    "or choose another --output"
                )
            self._state = found
        file.truncate(self._state.bytes)
        self._save()

    def _found(self) -> _State | None:
        try:
            return _State(**json.loads(self._state_path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise FileError(f"{self._state_path}: not readable ({error}); remove it to begin again") from error


def _sync(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())
