"""Parquet, by pyarrow, which this module alone imports."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from xlmstream.files.records import Record, columns_of
from xlmstream.files.source import FileError
from xlmstream.tensor import Tensor

_READ_ROWS = 4096
# A row group: large enough to compress well and be scanned quickly, small enough to be held in memory.
_GROUP_ROWS = 65_536
_GROUP_BYTES = 32 << 20


def rows(name: str, stream: BinaryIO, wanted: Callable[[str], bool] | None) -> Iterator[dict[str, Any]]:
    """The rows of a file, a few thousand in memory at a time; only columns that `wanted` names, None for all."""
    try:
        file = pq.ParquetFile(stream)
        columns = [column for column in file.schema_arrow.names if wanted is None or wanted(column)]
        for batch in file.iter_batches(batch_size=_READ_ROWS, columns=columns):
            yield from batch.to_pylist()
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise FileError(f"{name}: not readable as Parquet: {error}") from error


class ParquetEncoder:
    """Blocks are Arrow streams behind one another, each complete; in the end they become the row groups of one file."""

    def __init__(self, task: str) -> None:
        self._schema = schema_of(task)

    def block(self, records: Sequence[Record], *, first: bool) -> bytes:
        if not records:
            return b""
        plain = [
            {name: value.tolist() if isinstance(value, Tensor) else value for name, value in record.items()}
            for record in records
        ]
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self._schema) as stream:
            stream.write_batch(pa.RecordBatch.from_pylist(plain, schema=self._schema))
        return bytes(sink.getvalue())

    def finish(self, part: Path, path: Path) -> None:
        made = path.with_name(f"{path.name}.making")
        with pq.ParquetWriter(made, self._schema, compression="zstd") as writer:
            for batches in _groups(part):
                writer.write_table(pa.Table.from_batches(batches))
        os.replace(made, path)
        part.unlink()


def _groups(part: Path) -> Iterator[list[pa.RecordBatch]]:
    """The batches of a file of streams, as many together as make a row group."""
    group: list[pa.RecordBatch] = []
    with pa.OSFile(str(part)) as file:
        while file.tell() < file.size():
            group += list(pa.ipc.open_stream(file))
            if sum(one.num_rows for one in group) >= _GROUP_ROWS or sum(one.nbytes for one in group) >= _GROUP_BYTES:
                yield group
                group = []
    if group:
        yield group


def schema_of(task: str) -> pa.Schema:
    """The columns of a task's results with their types."""
    types = _COMMON | _TYPES[task]
    return pa.schema([(name, types[name]) for name in columns_of(task)])


def _structs(**fields: Any) -> pa.DataType:
    return pa.list_(pa.struct(list(fields.items())))


_TEXT, _INT, _FLOAT, _DOUBLE = pa.string(), pa.int32(), pa.float32(), pa.float64()
_TOKEN = {"id": _INT, "piece": _TEXT, "start": _INT, "end": _INT}
_SPANS = _structs(text=_TEXT, start=_INT, end=_INT, label=_TEXT, score=_FLOAT)
_IDS = pa.list_(_INT)
_LOGPROBS = _structs(logprob=_FLOAT, top=_structs(token_id=_INT, logprob=_FLOAT))

_COMMON: dict[str, pa.DataType] = {
    "index": pa.int64(),
    "key": _TEXT,
    "attempt": _INT,
    "prompt_tokens": _INT,
    "completion_tokens": _INT,
    "error_reason": _TEXT,
    "error_message": _TEXT,
}
_GENERATION: dict[str, pa.DataType] = {
    "text": _TEXT,
    "finish_reason": _TEXT,
    "token_ids": _IDS,
    "seed": pa.uint64(),
    "candidates": _structs(text=_TEXT, token_ids=_IDS, finish_reason=_TEXT, score=_FLOAT, logprobs=_LOGPROBS),
}
_TYPES: Mapping[str, dict[str, pa.DataType]] = {
    "generate": _GENERATION,
    "translate": _GENERATION,
    "embed": {
        "embedding": pa.list_(_FLOAT),
        "token_embeddings": pa.list_(pa.list_(_FLOAT)),
        "tokens": _structs(**_TOKEN),
    },
    "fill_mask": {
        "text": _TEXT,
        "masks": _structs(
            token_index=_INT,
            start=_INT,
            end=_INT,
            candidates=_structs(token_id=_INT, piece=_TEXT, score=_FLOAT, text=_TEXT),
        ),
    },
    "classify": {
        "label": _TEXT,
        "score": _FLOAT,
        "labels": _structs(label=_TEXT, index=_INT, score=_FLOAT, logit=_FLOAT),
    },
    "tag": {"entities": _SPANS, "words": _SPANS, "tokens": _structs(**_TOKEN, scores=pa.list_(_FLOAT))},
    "answer": {
        "text": _TEXT,
        "score": _FLOAT,
        "no_answer_score": _FLOAT,
        "answers": _structs(text=_TEXT, start=_INT, end=_INT, score=_FLOAT),
    },
    "choose": {"choice": _INT, "score": _FLOAT, "choices": _structs(index=_INT, score=_FLOAT, logit=_FLOAT)},
    "score": {
        "log_probability": _DOUBLE,
        "perplexity": _DOUBLE,
        "scored_tokens": _INT,
        "tokens": _structs(**_TOKEN, log_probability=_FLOAT),
    },
}
