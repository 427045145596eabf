"""How a served model can continue a text: the modes its card lists, and the mask that it appends.

Engine and wire have an enum of their own each; this is the one place that knows both.
"""

from __future__ import annotations

from collections.abc import Mapping

from xlmstream.v1.models_pb2 import DECODING_MODE_MASK_APPEND, DECODING_MODE_NEXT_TOKEN
from xlmstream.v1.models_pb2 import DecodingMode as WireDecodingMode

from xlmstream_worker.sequences import DecodingMode
from xlmstream_worker.xlm import XLMConfig, XLMTokenizer

ENGINE_MODES: Mapping[WireDecodingMode.ValueType, DecodingMode] = {
    DECODING_MODE_NEXT_TOKEN: DecodingMode.NEXT_TOKEN,
    DECODING_MODE_MASK_APPEND: DecodingMode.MASK_APPEND,
}


def decoding_modes(config: XLMConfig, tokenizer: XLMTokenizer) -> list[WireDecodingMode.ValueType]:
    """The modes of a model, its default first; none for a masked model without a mask token."""
    if config.causal:
        return [DECODING_MODE_NEXT_TOKEN, DECODING_MODE_MASK_APPEND]
    mask = mask_to_append(config, tokenizer)
    return [DECODING_MODE_MASK_APPEND] if mask is not None and mask < config.vocab_size else []


def mask_to_append(config: XLMConfig, tokenizer: XLMTokenizer) -> int | None:
    """The id that MASK_APPEND appends.

    `generate` of transformers takes `mask_token_id` of the configuration. Its default there is 0, `<s>`, and files say
    so without anybody having chosen it: a masked model, to which this is no mask, takes the tokenizer's instead.
    """
    if config.causal or config.mask_token_id:
        return config.mask_token_id
    return tokenizer.mask_token_id
