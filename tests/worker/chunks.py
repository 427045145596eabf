"""Taken chunks of jobs, as the broker gives them."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import Message
from xlmstream.v1.common_pb2 import TextInput, Truncation
from xlmstream.v1.job_pb2 import JobItem, JobTask
from xlmstream_server.broker import ChunkItem, TakenChunk
from xlmstream_server.broker.v1.messages_pb2 import JobSpec


def chunk(
    branch: str,
    inputs: Sequence[Message | str],
    parameters: Message | None = None,
    *,
    chunk_id: str = "00job.1.0",
    first_index: int = 0,
    truncation: Truncation.ValueType = Truncation.TRUNCATION_UNSPECIFIED,
) -> TakenChunk:
    task = JobTask()
    getattr(task, branch).SetInParent()
    if parameters is not None:
        getattr(task, branch).CopyFrom(parameters)
    spec = JobSpec(job_id="job", tenant="default", model="toy@1", task=task, truncation=truncation, seed=11)
    items = []
    for index, given in enumerate(inputs, first_index):
        message = TextInput(text=given) if isinstance(given, str) else given
        items.append(ChunkItem(index, JobItem(key=f"k{index}", **{branch: message})))
    return TakenChunk(chunk_id, spec, attempt=1, items=tuple(items), deaths=0, alone=False, taken_ms=1_250)
