"""What is served: the workers' cards, merged by model, and how callers name a model."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

from xlmstream.status import listing
from xlmstream.v1.common_pb2 import Task, TextInput
from xlmstream.v1.models_pb2 import Model, ModelState

from xlmstream_server import errors
from xlmstream_server.broker import BrokerError, GatewayBroker, Registered
from xlmstream_server.signals import Signal
from xlmstream_server.validation import Violations

LOG = logging.getLogger(__name__)

# How often the registry is read, in seconds. Workers renew their cards about as often.
REFRESH_S = 1.0


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model over all its workers.

    Attributes:
        card: what callers see; the first living worker's card with `state` and `workers` filled in.
        bytes_per_token: mean bytes of UTF-8 text a token.
        slots, busy_slots: sequences its living workers can run, and run now.
    """

    card: Model
    bytes_per_token: float
    slots: int
    busy_slots: int

    @property
    def full_name(self) -> str:
        return full_name(self.card)

    def estimate_tokens(self, given: TextInput) -> int:
        """About how many tokens an input has, for admission; the worker corrects it."""
        if given.WhichOneof("source") == "token_ids":
            return len(given.token_ids.ids)
        size_bytes = len(given.text) if given.text.isascii() else len(given.text.encode())
        return int(size_bytes / max(self.bytes_per_token, 1.0)) + 2


def full_name(card: Model) -> str:
    """ "name@version", or "name" where it has no version."""
    return f"{card.name}@{card.version}" if card.version else card.name


class Catalogue:
    """The served models as the registry last told. Run `run` as a task of the gateway's group.

    Attributes:
        changed: fires when a card, a state or a number of workers changes, and when the broker goes or comes back.
    """

    def __init__(self, broker: GatewayBroker) -> None:
        self._broker = broker
        self._models: dict[str, ServedModel] = {}
        self._was_up = broker.up
        self.changed = Signal()

    @property
    def models(self) -> list[ServedModel]:
        """By name, the newest version first."""
        return list(self._models.values())

    async def run(self) -> None:
        while True:
            try:
                await self.refresh()
            except BrokerError as cause:
                LOG.debug("the registry cannot be read: %s", cause)
            self.broker_up()
            await asyncio.sleep(REFRESH_S)

    async def refresh(self) -> None:
        """Read the registry. Raises BrokerDown, and then keeps what it knew."""
        self.update(await self._broker.models())

    def update(self, workers: Sequence[Registered]) -> None:
        """Replace what is known by what these workers serve."""
        merged: dict[str, ServedModel] = {}
        for worker in sorted(workers, key=lambda each: not each.alive):
            for served in worker.card.models:
                name = full_name(served.model)
                known = merged.get(name)
                if known is None:
                    card = Model()
                    card.CopyFrom(served.model)
                    card.workers = 0
                    card.state = ModelState.MODEL_STATE_READY if worker.alive else ModelState.MODEL_STATE_UNAVAILABLE
                    known = ServedModel(card, served.bytes_per_token, 0, 0)
                if worker.alive:
                    known.card.workers += 1
                    slots, busy = known.slots + served.slots, known.busy_slots + served.busy_slots
                    known = ServedModel(known.card, known.bytes_per_token, slots, busy)
                merged[name] = known
        ordered = sorted(merged.values(), key=_newest_first)
        ordered.sort(key=lambda each: each.card.name)
        before = [model.card for model in self._models.values()]
        self._models = {model.full_name: model for model in ordered}
        if [model.card for model in ordered] != before:
            self.changed.fire()

    def known(self, full_name: str) -> ServedModel | None:
        """A model by its full name; None where no worker has been heard of lately that serves it."""
        return self._models.get(full_name)

    def broker_up(self) -> bool:
        """Whether the broker answers. Whoever acts on the answer is told by `changed` when it is no longer true."""
        up = self._broker.up
        if up != self._was_up:
            self._was_up = up
            self.changed.fire()
        return up

    def find(self, name: str) -> ServedModel:
        """The model called "name" (its newest version with a worker, else its newest) or "name@version".

        Raises ServiceError: MODEL_NOT_FOUND; NO_WORKER where nothing is known yet; QUEUE_DOWN where nothing can be.
        """
        if not self._models:
            raise errors.no_worker("") if self.broker_up() else errors.queue_down()
        if exact := self._models.get(name):
            return exact
        versions = [model for model in self._models.values() if model.card.name == name]
        if not versions:
            raise errors.model_not_found(name, list(self._models))
        return next((model for model in versions if model.card.workers), versions[0])

    def serving(self, name: str, task: Task.ValueType) -> ServedModel:
        """The model that a request names, able to do `task` now. An empty name means the only one with workers, and
        where none has any the only one known.

        Raises ServiceError: as `find`; INVALID_INPUT, TASK_UNSUPPORTED, NO_WORKER.
        """
        if name:
            model = self.find(name)
        else:
            served = [model for model in self._models.values() if model.card.workers] or self._models.values()
            names = {model.card.name for model in served}
            if len(names) > 1:
                found = Violations()
                choice = listing(model.full_name for model in served)
                found.add("options.model", f"several models are served; name one: {choice}")
                found.raise_if_any()
            model = self.find(next(iter(names), ""))
        if task not in model.card.tasks:
            raise errors.task_unsupported(model.full_name, task, model.card.tasks)
        if not model.card.workers:
            raise errors.no_worker(model.full_name) if self.broker_up() else errors.queue_down()
        return model


def _newest_first(model: ServedModel) -> tuple[tuple[int, int | str], ...]:
    """Sorts versions downwards, numbers in them as numbers: "v10" before "v9", "1.1" before "1"."""
    parts = re.findall(r"\d+|\D+", model.card.version)
    end: tuple[int, int | str] = (2, 0)
    return (*((0, -int(part)) if part.isdigit() else (1, _descending(part)) for part in parts), end)


def _descending(text: str) -> str:
    return "".join(chr(0x10FFFF - ord(character)) for character in text)
