"""A caller of InferStream for tests."""

from __future__ import annotations

from typing import Any

import grpc.aio
from gateway.conftest import Service
from xlmstream.v1.common_pb2 import RequestOptions, TextInput
from xlmstream.v1.generation_pb2 import GenerationParameters
from xlmstream.v1.inference_pb2 import (
    EmbedItem,
    GenerateItem,
    InferAction,
    InferCancel,
    InferFinished,
    InferItem,
    InferOpen,
    InferOutput,
    InferStreamRequest,
)


def embed_item(identity: int, text: str, **parameters: Any) -> InferItem:
    return InferItem(correlation_id=identity, embed=EmbedItem(input=TextInput(text=text), parameters=parameters))


def generate_item(identity: int, text: str, tokens: int = 10, *, deltas: bool = False) -> InferItem:
    parameters = GenerationParameters(max_new_tokens=tokens)
    return InferItem(
        correlation_id=identity,
        generate=GenerateItem(input=TextInput(text=text), parameters=parameters, deltas=deltas),
    )


class Infer:
    """One InferStream call; keeps what comes."""

    def __init__(self, service: Service, **options: Any) -> None:
        self.call = service.inference.InferStream(timeout=options.pop("timeout", None))
        self._ordered = options.pop("ordered", False)
        self._options = RequestOptions(**options)
        self.credit = 0
        self.outputs: dict[int, InferOutput] = {}
        self.order: list[int] = []
        self.texts: dict[int, str] = {}
        self.finished: InferFinished | None = None
        self.messages = 0

    async def open(self) -> Infer:
        await self.send(InferAction(open=InferOpen(options=self._options, ordered=self._ordered)))
        await self.until(lambda: self.credit > 0)
        return self

    async def send(self, *actions: InferAction) -> None:
        await self.call.write(InferStreamRequest(actions=actions))

    async def items(self, *items: InferItem) -> None:
        self.credit -= len(items)
        await self.send(*(InferAction(item=item) for item in items))

    async def cancel(self, *identities: int) -> None:
        await self.send(InferAction(cancel=InferCancel(correlation_ids=identities)))

    async def until(self, condition: Any) -> None:
        """Read until `condition` holds, or the end."""
        while not condition():
            message = await self.call.read()
            if message is grpc.aio.EOF:
                return
            self.messages += 1
            for event in message.events:
                self._take(event)

    async def finish(self) -> None:
        await self.call.done_writing()
        await self.until(lambda: False)
        assert await self.call.code() == grpc.StatusCode.OK
        assert self.finished is not None

    def _take(self, event: Any) -> None:
        assert self.finished is None
        kind = event.WhichOneof("event")
        if kind == "opened":
            self.credit += event.opened.credit
        elif kind == "credit":
            self.credit += event.credit.items
        elif kind == "output":
            identity = event.output.correlation_id
            assert identity not in self.outputs
            self.outputs[identity] = event.output
            self.order.append(identity)
        elif kind == "delta":
            self.texts[event.delta.correlation_id] = (
                self.texts.get(event.delta.correlation_id, "") + event.delta.delta.text
            )
        else:
            self.finished = event.finished
