"""The tasks of jobs: how their parameters are checked and what an item costs. By branch, the same in JobTask, JobItem
and JobResult: whatever unary task has a branch there is a task of jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from google.protobuf.message import Message
from xlmstream.v1.common_pb2 import Task
from xlmstream.v1.job_pb2 import JobItem, JobTask
from xlmstream.v1.models_pb2 import Model

from xlmstream_server.catalogue import ServedModel
from xlmstream_server.config import Limits
from xlmstream_server.tasks import generation, translation
from xlmstream_server.tasks.base import UnaryTask
from xlmstream_server.tasks.batched import BatchedTask, TextTask
from xlmstream_server.tasks.table import TASKS
from xlmstream_server.tasks.translation import TranslateTask
from xlmstream_server.validation import Violations

# Of a model that no worker serves now, and whose card is therefore not known.
UNKNOWN_BYTES_PER_TOKEN = 4.0

# Sizes whose cost is looked up, once so many items come at a time.
_LOOKED_UP_BYTES = 2048
_WORTH_A_TABLE = 128


class Estimate(Protocol):
    """About how many tokens items cost, given themselves and their serialized sizes."""

    def __call__(self, items: Sequence[JobItem], sizes: Sequence[int]) -> list[int]: ...


class EstimateBySize:
    """Of items that are single texts: `cost` gives the tokens of one by its bytes."""

    def __init__(self, cost: Callable[[int], int]) -> None:
        self._cost = cost
        self._costs: list[int] = []

    def __call__(self, items: Sequence[JobItem], sizes: Sequence[int]) -> list[int]:
        if len(sizes) < _WORTH_A_TABLE or max(sizes) >= _LOOKED_UP_BYTES:
            return list(map(self._cost, sizes))
        if not self._costs:
            self._costs = [self._cost(size) for size in range(_LOOKED_UP_BYTES)]
        return list(map(self._costs.__getitem__, sizes))


@dataclass(frozen=True, slots=True)
class JobKind:
    """One task of jobs.

    Attributes:
        branch: its name in JobTask, JobItem and JobResult.
        unary: the task that calls run.
    """

    branch: str
    unary: UnaryTask[Any, Any, Any]

    @property
    def task(self) -> Task.ValueType:
        return self.unary.kind

    def check(self, found: Violations, given: JobTask, model: ServedModel, limits: Limits) -> None:
        """What is wrong with the parameters, as the unary call would tell, named from `task` on."""
        own = Violations()
        parameters = getattr(given, self.branch)
        if isinstance(self.unary, BatchedTask):
            self.unary.check_parameters(own, self._request(parameters), model)
        elif isinstance(self.unary, TranslateTask):
            translation.check_shared(own, parameters, model, limits)
            own.add_to(found, "", f"task.{self.branch}.")
            return
        else:
            generation.check_parameters(own, parameters, model, limits)
        own.add_to(found, "parameters", f"task.{self.branch}")

    def estimate(self, given: JobTask, model: ServedModel | None) -> Estimate:
        """How items of this task are estimated; those that are single texts by their size alone."""
        model = model or ServedModel(Model(), UNKNOWN_BYTES_PER_TOKEN, 0, 0)
        parameters = getattr(given, self.branch)
        most = model.card.max_input_tokens or 1 << 31
        per_byte = 1 / max(model.bytes_per_token, 1.0)
        if isinstance(self.unary, TextTask):
            return EstimateBySize(lambda size: min(int(size * per_byte) + 2, most))
        if isinstance(self.unary, BatchedTask):
            task, branch, request = self.unary, self.branch, self._request(parameters)
            return lambda items, sizes: [task.cost_tokens(getattr(item, branch), request, model) for item in items]
        if isinstance(self.unary, TranslateTask):
            own = parameters.parameters
            return EstimateBySize(lambda size: translation.cost_of(int(size * per_byte) + 2, own, most))
        new, texts = generation.output_cost(parameters)
        return EstimateBySize(lambda size: min(int(size * per_byte) + 2 + new, most) * texts)

    def _request(self, parameters: Message) -> Any:
        """A unary request of these parameters and no inputs."""
        request: Any = self.unary.request_type()
        if "parameters" in request.DESCRIPTOR.fields_by_name:
            request.parameters.CopyFrom(parameters)
        return request


KINDS: Mapping[str, JobKind] = {
    branch: JobKind(branch, task) for branch, task in TASKS.items() if branch in JobTask.DESCRIPTOR.fields_by_name
}
