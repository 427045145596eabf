"""Small random models, the plain, uncached computation that the engine must agree with, and a driver for engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from xlmstream_worker.decoder import DecoderEngine
from xlmstream_worker.sequences import DecodingMode, EndReason, EngineConfig, SequenceRequest, TokenOutput
from xlmstream_worker.xlm import XLMConfig, XLMWithLMHeadModel

# Positions of the models.
CONTEXT = 48
# Where two scores are closer than this, float32 rounding may decide between them.
MARGIN = 1e-4
# An engine that is full and behind with prompts soon.
SMALL = EngineConfig(max_slots=5, prefill_tokens=7)


def build_model(*, causal: bool = True, n_langs: int = 3, **overrides: object) -> XLMWithLMHeadModel:
    """Random weights large enough that attention matters and the best token is seldom a tie."""
    torch.manual_seed(7)
    settings: dict[str, object] = {
        "vocab_size": 97,
        "emb_dim": 32,
        "n_layers": 3,
        "n_heads": 4,
        "n_langs": n_langs,
        "max_position_embeddings": CONTEXT,
        "causal": causal,
        "init_std": 0.3,
        "embed_init_std": 0.5,
    }
    return XLMWithLMHeadModel(XLMConfig(**settings | overrides)).eval()  # type: ignore[arg-type]


def next_scores(model: XLMWithLMHeadModel, request: SequenceRequest, ids: Sequence[int]) -> torch.Tensor:
    """Scores (V,) after `ids`, by a full forward pass over them."""
    fed, mask = list(ids), torch.ones(1, len(ids))  # next-token decoding knows no padding
    if request.mode is DecodingMode.MASK_APPEND:
        mask = None  # as `generate` does it, the model infers it
        fed.append(model.config.mask_token_id if request.mask_id is None else request.mask_id)
    langs = None if request.language_id is None else torch.full((1, len(fed)), request.language_id)
    with torch.no_grad():
        output = model(input_ids=torch.tensor([fed]), langs=langs, attention_mask=mask, return_dict=True)
    return output.logits[0, -1]


def plain_greedy(model: XLMWithLMHeadModel, request: SequenceRequest, limit: int) -> tuple[list[int], float]:
    """The greedy continuation and the smallest margin between the best two scores on the way."""
    ids: list[int] = []
    smallest = float("inf")
    room = min(request.max_new_tokens, limit - len(request.prompt_ids))
    while len(ids) < room:
        scores = next_scores(model, request, [*request.prompt_ids, *ids])
        if len(ids) < request.min_new_tokens and request.eos_id is not None:
            scores[request.eos_id] = -torch.inf
        best, second = scores.topk(2).values.tolist()
        smallest = min(smallest, best - second)
        ids.append(int(scores.argmax()))
        if ids[-1] == request.eos_id:
            break
    return ids, smallest


@dataclass
class Transcript:
    """Everything an engine reported, by (key, candidate)."""

    outputs: dict[tuple[str, int], list[TokenOutput]]

    def ids(self, key: str, candidate: int = 0) -> list[int]:
        return [o.token_id for o in self.outputs[key, candidate] if o.token_id is not None]


def run(
    engine: DecoderEngine,
    arrivals: Sequence[tuple[int, SequenceRequest]],
    on_step: Callable[[int], None] = lambda step: None,
) -> Transcript:
    """Add each request at its step, run until idle, and check the order of what comes out."""
    pending = sorted(arrivals, key=lambda arrival: arrival[0])
    transcript = Transcript({})
    step = 0
    while pending or not engine.idle:
        while pending and pending[0][0] <= step:
            engine.add(pending.pop(0)[1])
        on_step(step)
        for output in engine.step().tokens:
            history = transcript.outputs.setdefault((output.key, output.candidate), [])
            assert not history or history[-1].finished is None, "output after the end"
            if history:
                assert output.index == history[-1].index + 1
            history.append(output)
        step += 1
        assert step < 5000
    assert engine.busy_slots == 0
    assert engine.free_slots == engine.max_slots
    return transcript


def assert_greedy(model: XLMWithLMHeadModel, transcript: Transcript, requests: list[SequenceRequest]) -> None:
    """Each request got what the plain computation gives, where rounding cannot decide, and ended as it should."""
    for request in requests:
        expected, margin = plain_greedy(model, request, CONTEXT)
        got = transcript.ids(request.key)
        if margin > MARGIN:
            assert got == expected, f"{request.key}: margin {margin:.2g}"
        last = transcript.outputs[request.key, 0][-1]
        assert last.finished is (EndReason.EOS if got[-1] == request.eos_id else EndReason.LENGTH)
