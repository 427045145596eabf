"""Tokenize and Detokenize: texts to ids with their places, and back. No engine takes part."""

from __future__ import annotations

import time

from xlmstream.v1.common_pb2 import TextInput, Token
from xlmstream.v1.inference_pb2 import (
    DetokenizeOutput,
    DetokenizeRequest,
    DetokenizeResponse,
    DetokenizeResult,
    TokenizeOutput,
    TokenizeRequest,
    TokenizeResponse,
    TokenizeResult,
)

from xlmstream_worker.rows import Row
from xlmstream_worker.tasks.inputs import Refused, check_range, language_of, text_tokens
from xlmstream_worker.tasks.timing import timing
from xlmstream_worker.text_model import TextModel


def tokenize(row: Row, model: TextModel, worker_id: str) -> TokenizeResponse:
    """The answer to a TokenizeRequest; an input that cannot be served has its error in its place."""
    began = time.monotonic()
    request = TokenizeRequest.FromString(row.taken.envelope.request)
    outputs = []
    for place, given in enumerate(request.inputs):
        try:
            tokens = _tokens(model, given, request.add_special_tokens, f"inputs[{place}]")
        except Refused as refused:
            outputs.append(TokenizeOutput(error=refused.status))
        else:
            outputs.append(TokenizeOutput(result=TokenizeResult(tokens=tokens)))
    return TokenizeResponse(outputs=outputs, timing=timing(row, worker_id, tokenize_s=time.monotonic() - began))


def detokenize(row: Row, model: TextModel, worker_id: str) -> DetokenizeResponse:
    """The answer to a DetokenizeRequest; an input that cannot be served has its error in its place."""
    began = time.monotonic()
    request = DetokenizeRequest.FromString(row.taken.envelope.request)
    outputs = []
    for place, given in enumerate(request.inputs):
        try:
            check_range(model, list(given.ids), f"inputs[{place}].ids")
        except Refused as refused:
            outputs.append(DetokenizeOutput(error=refused.status))
        else:
            text = model.tokenizer.decode(list(given.ids), skip_special_tokens=request.skip_special_tokens)
            outputs.append(DetokenizeOutput(result=DetokenizeResult(text=text)))
    return DetokenizeResponse(outputs=outputs, timing=timing(row, worker_id, tokenize_s=time.monotonic() - began))


def _tokens(model: TextModel, given: TextInput, add_special_tokens: bool, field: str) -> list[Token]:
    placed = text_tokens(model, given, language_of(model, given, field))
    if add_special_tokens:
        placed = [(model.begin_id, 0, 0), *placed, (model.end_id, 0, 0)]
    pieces = model.tokenizer.convert_ids_to_tokens([token_id for token_id, _, _ in placed])
    return [
        Token(id=token_id, piece=piece, start=start, end=end)
        for piece, (token_id, start, end) in zip(pieces, placed, strict=True)
    ]
