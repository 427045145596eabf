"""Embed: texts to vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from google.rpc.status_pb2 import Status
from numpy.typing import NDArray
from xlmstream.v1.common_pb2 import Token
from xlmstream.v1.embedding_pb2 import (
    POOLING_FIRST,
    POOLING_LAST,
    POOLING_MAX,
    POOLING_MEAN,
    POOLING_NONE,
    POOLING_UNSPECIFIED,
    EmbedOutput,
    EmbedParameters,
    EmbedRequest,
    EmbedResponse,
    EmbedResult,
)
from xlmstream.v1.embedding_pb2 import Pooling as WirePooling
from xlmstream.v1.tensor_pb2 import (
    DATA_TYPE_BFLOAT16,
    DATA_TYPE_FLOAT16,
    DATA_TYPE_FLOAT32,
    DATA_TYPE_UNSPECIFIED,
    DataType,
    Tensor,
)
from xlmstream_server.broker.v1.messages_pb2 import Event

from xlmstream_worker.encoder_inputs import EncoderInput, Pooling, Values, Vectors
from xlmstream_worker.tasks.checks import Checks
from xlmstream_worker.tasks.encoding import Cost, EncoderTask, Item
from xlmstream_worker.tasks.frames import Span, fitted, read_text, single
from xlmstream_worker.tasks.inputs import Refused
from xlmstream_worker.text_model import TextModel

_POOLINGS: Mapping[WirePooling.ValueType, Pooling] = {
    POOLING_UNSPECIFIED: Pooling.MEAN,
    POOLING_FIRST: Pooling.FIRST,
    POOLING_MEAN: Pooling.MEAN,
    POOLING_MAX: Pooling.MAX,
    POOLING_LAST: Pooling.LAST,
    POOLING_NONE: Pooling.NONE,
}
_DTYPES = (DATA_TYPE_UNSPECIFIED, DATA_TYPE_FLOAT32, DATA_TYPE_FLOAT16, DATA_TYPE_BFLOAT16)


@dataclass(frozen=True, slots=True)
class _Text(Item[EmbedResult]):
    sequences: tuple[EncoderInput, ...]
    dtype: DataType.ValueType
    spans: tuple[Span, ...]
    """Of every token, special ones included; empty where vectors are pooled."""

    def result(self, model: TextModel, values: Sequence[Values], cost: Cost) -> EmbedResult:
        ((vectors,),) = values
        ids = self.sequences[0].ids if self.spans else ()
        pieces = model.tokenizer.convert_ids_to_tokens(ids)
        tokens = [
            Token(id=token_id, piece=piece, start=start, end=end)
            for token_id, piece, (start, end) in zip(ids, pieces, self.spans, strict=True)
        ]
        tensor = tensor_of(vectors.astype(np.float32, copy=False), self.dtype)
        return EmbedResult(embedding=tensor, tokens=tokens, usage=cost.usage, timing=cost.timing)


class Embed(EncoderTask[EmbedResult]):
    def prepare(self, request: bytes, model: TextModel) -> list[Item[EmbedResult] | Status]:
        asked = EmbedRequest.FromString(request)
        reading = _reading(asked.parameters, model)
        tokenwise = reading.pooling is Pooling.NONE
        items: list[Item[EmbedResult] | Status] = []
        for place, given in enumerate(asked.inputs):
            field = f"inputs[{place}]"
            try:
                text = read_text(model, given, field, asked.options.truncation, with_spans=tokenwise)
                text = fitted(model, text, asked.options.truncation, field)
            except Refused as refused:
                items.append(refused.status)
                continue
            spans = text.spans if text.raw or not tokenwise else ((0, 0), *text.spans, (0, 0))
            items.append(_Text((single(model, text).input(reading),), asked.parameters.dtype, spans))
        return items

    def event(self, results: Sequence[EmbedResult | Status]) -> Event:
        return Event(embedded=EmbedResponse(outputs=[_output(result) for result in results]))


def _output(result: EmbedResult | Status) -> EmbedOutput:
    return EmbedOutput(error=result) if isinstance(result, Status) else EmbedOutput(result=result)


def _reading(asked: EmbedParameters, model: TextModel) -> Vectors:
    card = model.card
    checks = Checks()
    checks.one_of("parameters.pooling", asked.pooling, _POOLINGS)
    checks.one_of("parameters.dtype", asked.dtype, _DTYPES)
    if asked.HasField("layer"):
        checks.within("parameters.layer", asked.layer, 0, card.layers)
    if asked.HasField("dimensions"):
        checks.within("parameters.dimensions", asked.dimensions, 1, card.embedding_size)
    checks.refuse()
    return Vectors(
        pooling=_POOLINGS[asked.pooling],
        layer=asked.layer if asked.HasField("layer") and asked.layer < card.layers else None,
        dimensions=asked.dimensions if asked.HasField("dimensions") else None,
        normalize=asked.normalize,
    )


def tensor_of(values: NDArray[np.float32], dtype: DataType.ValueType) -> Tensor:
    """The tensor of an array, its numbers rounded to `dtype`."""
    if dtype == DATA_TYPE_FLOAT16:
        with np.errstate(over="ignore"):  # beyond 65504 is infinite in this type
            data = values.astype("<f2").tobytes()
    elif dtype == DATA_TYPE_BFLOAT16:
        bits = np.ascontiguousarray(values, "<f4").view("<u4")
        # To the nearest, ties to even: add half of what is cut off, less one where the last bit kept is even.
        data = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
    else:
        dtype, data = DATA_TYPE_FLOAT32, values.astype("<f4", copy=False).tobytes()
    return Tensor(dtype=dtype, shape=values.shape, data=data)
