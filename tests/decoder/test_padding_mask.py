"""A mask that is the padding token: XLM infers that it is none, and reads nothing but the bias at its place."""

from __future__ import annotations

import pytest
import torch
from decoder.plain import build_model, plain_greedy, run
from xlmstream_worker.decoder import DecoderEngine
from xlmstream_worker.sequences import DecodingMode, EngineConfig, SequenceRequest


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("static", [True, False])
def test_it_is_decoded_as_the_library_does(causal: bool, static: bool) -> None:
    model = build_model(causal=causal)
    with torch.no_grad():
        model.pred_layer.proj.bias.normal_()
    pad = model.config.pad_index
    requests = [
        SequenceRequest("padding", (5, 6, 7), 0, DecodingMode.MASK_APPEND, mask_id=pad, max_new_tokens=4),
        SequenceRequest("other", (5, 6, 7, 8), 0, DecodingMode.MASK_APPEND, max_new_tokens=4),
    ]
    transcript = run(DecoderEngine(model, EngineConfig(max_slots=4, static_shapes=static)), [(0, r) for r in requests])
    for request in requests:
        assert transcript.ids(request.key) == plain_greedy(model, request, 48)[0]
