"""From items to requests: items of one task with equal parameters share a request, and so executions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message
from google.rpc.status_pb2 import Status
from xlmstream.v1.common_pb2 import RequestOptions
from xlmstream.v1.inference_pb2 import InferItem

from xlmstream_server import errors
from xlmstream_server.tasks.base import UnaryTask
from xlmstream_server.tasks.generating import GENERATING
from xlmstream_server.tasks.table import TASKS

# The fields that an item has beside its input and shares with the request of its task.
SHARED_FIELDS: Mapping[str, tuple[str, ...]] = {
    branch: tuple(
        name
        for name in type(getattr(InferItem(), branch)).DESCRIPTOR.fields_by_name
        if name != "input" and name in task.request_type.DESCRIPTOR.fields_by_name
    )
    for branch, task in TASKS.items()
}


@dataclass(slots=True, eq=False)
class Item:
    """One unfinished item of a stream.

    Attributes:
        branch: its task, "" where it names none.
        credited: whether its output gives a credit back.
        held: its outcome, as (branch of InferOutput, message), where an earlier item's must be sent first.
    """

    correlation_id: int
    branch: str
    credited: bool = True
    done: bool = False
    held: tuple[str, Message] | None = None


@dataclass(slots=True)
class Batch:
    """Items with one request, input i being that of item i.

    Attributes:
        deltas: whether what is generated shall be told as it grows.
    """

    branch: str
    request: Any
    deltas: bool = False
    items: list[Item] = field(default_factory=list)

    @property
    def task(self) -> UnaryTask[Any, Any, Any]:
        return TASKS[self.branch]

    def status_for(self, index: int, status: Status) -> Status:
        """`status`, which tells of input `index` of a request, with its fields named as the caller of a stream does."""
        status = errors.relocated(status, f"inputs[{index}]", f"{self.branch}.input")
        status = errors.relocated(status, "input", f"{self.branch}.input")
        for shared in SHARED_FIELDS[self.branch]:
            status = errors.relocated(status, shared, f"{self.branch}.{shared}")
        return status


def batches(options: RequestOptions, pairs: Iterable[tuple[InferItem, Item]], max_inputs: int) -> Iterator[Batch]:
    """The requests that together carry all of the items, each with at most `max_inputs`.

    A generation, as a translation, is an execution of its own and has a key of its own where the stream has one.
    """
    unkeyed = RequestOptions()
    unkeyed.CopyFrom(options)
    unkeyed.request_id = ""
    open_batches: dict[tuple[object, ...], Batch] = {}
    for message, item in pairs:
        content = getattr(message, item.branch)
        if TASKS[item.branch].kind in GENERATING:
            own = unkeyed
            if options.request_id:
                own = RequestOptions()
                own.CopyFrom(options)
                own.request_id = f"{options.request_id}.{item.correlation_id}"
            batch = _batch(own, item.branch, content)
            batch.deltas = content.deltas
            batch.request.inputs.append(content.input)
            batch.items.append(item)
            yield batch
            continue
        shared = (_plain(getattr(content, name)) for name in SHARED_FIELDS[item.branch])
        key = (item.branch, *shared)
        found = open_batches.get(key)
        if found is None:
            found = open_batches[key] = _batch(unkeyed, item.branch, content)
        found.request.inputs.append(content.input)
        found.items.append(item)
        if len(found.items) == max_inputs:
            yield open_batches.pop(key)
    yield from open_batches.values()


def _batch(options: RequestOptions, branch: str, content: Any) -> Batch:
    shared = {name: getattr(content, name) for name in SHARED_FIELDS[branch]}
    return Batch(branch, TASKS[branch].request_type(options=options, **shared))


def _plain(value: object) -> object:
    return value.SerializeToString(deterministic=True) if isinstance(value, Message) else value
