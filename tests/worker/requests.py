"""Taken executions, as the broker gives them."""

from collections.abc import Sequence

from xlmstream.v1.common_pb2 import TASK_GENERATE, Task, TextInput
from xlmstream.v1.generation_pb2 import GenerationParameters
from xlmstream.v1.inference_pb2 import GenerateStreamRequest
from xlmstream_server.broker import Taken
from xlmstream_server.broker.v1.messages_pb2 import Envelope, Event
from xlmstream_worker.rows import Row


def row(
    request: object,
    task: Task.ValueType = TASK_GENERATE,
    execution_id: str = "00x",
    journal: Sequence[Event] = (),
    seed: int = 1,
) -> Row:
    envelope = Envelope(
        execution_id=execution_id,
        model="toy@1",
        task=task,
        request=request if isinstance(request, bytes) else request.SerializeToString(),
        accepted_ms=1_000,
        deadline_ms=601_000,
        seed=seed,
    )
    taken = Taken(envelope=envelope, journal=tuple(journal), attempt=1, alone=False, taken_ms=1_250)
    return Row(taken, key=f"{execution_id}#0")


def generate(text: str = "the lord", *, language: str | None = None, **parameters: object) -> GenerateStreamRequest:
    return GenerateStreamRequest(
        input=TextInput(text=text, language=language), parameters=GenerationParameters(**parameters)
    )
