"""Small random translation models, and the library's plain translation that the engine must agree with."""

from __future__ import annotations

import random
from dataclasses import replace

import torch
from xlmstream_worker.sequences import BeamParameters, EarlyStopping, SequenceRequest, Source
from xlmstream_worker.xlm import Hypothesis, XLMConfig, XLMEncoderDecoder, XLMEncoderDecoderConfig

BEGIN = END = 1
VOCABULARY = 97
SOURCE_POSITIONS, POSITIONS = 40, 32


def build_translator(**overrides: object) -> XLMEncoderDecoder:
    """Random weights large enough that both attentions matter and the best token is seldom a tie."""
    torch.manual_seed(11)
    settings: dict[str, object] = {
        "vocab_size": VOCABULARY,
        "emb_dim": 32,
        "n_layers": 3,
        "n_heads": 4,
        "n_langs": 3,
        "init_std": 0.3,
        "embed_init_std": 0.5,
    } | overrides
    encoder = XLMConfig(**settings, max_position_embeddings=SOURCE_POSITIONS)  # type: ignore[arg-type]
    decoder = XLMConfig(
        **settings | {"n_layers": 2},  # type: ignore[arg-type]
        max_position_embeddings=POSITIONS,
        is_encoder=False,
        causal=True,
    )
    return XLMEncoderDecoder.from_config(XLMEncoderDecoderConfig(encoder, decoder)).eval()


def translation(key: str, source: list[int], language: int = 1, **wishes: object) -> SequenceRequest:
    """A request as the worker makes it."""
    return replace(
        SequenceRequest(
            key,
            prompt_ids=(BEGIN,),
            language_id=language,
            source=Source((BEGIN, *source, END), language_id=0),
            max_new_tokens=20,
            eos_id=END,
        ),
        **wishes,  # type: ignore[arg-type]
    )


def random_translations(seed: int, count: int = 16, **wishes: object) -> list[tuple[int, SequenceRequest]]:
    """Sources of all lengths, arriving over 30 steps."""
    rng = random.Random(seed)
    requests = []
    for number in range(count):
        source = [rng.randrange(3, VOCABULARY) for _ in range(rng.randint(1, SOURCE_POSITIONS - 2))]
        request = translation(f"t{number}", source, rng.randrange(3), max_new_tokens=rng.randint(1, 24))
        requests.append((rng.randint(0, 30), replace(request, **wishes)))  # type: ignore[arg-type]
    return requests


def library_translations(model: XLMEncoderDecoder, request: SequenceRequest) -> list[Hypothesis]:
    """What the library makes of a request, alone."""
    assert request.source is not None
    assert request.language_id is not None
    search = request.beam_search or BeamParameters(1)
    ids = torch.tensor([request.source.ids])
    [found] = model.generate(
        ids,
        langs=torch.full_like(ids, request.source.language_id or 0),
        target_langs=torch.tensor([request.language_id]),
        # With the beginning; without beams the library gives the last place to the end.
        max_lengths=torch.tensor([min(request.max_new_tokens + (2 if search.beams == 1 else 1), POSITIONS)]),
        num_beams=search.beams,
        num_return_sequences=search.beams,
        length_penalty=search.length_penalty,
        early_stopping=search.early_stopping is EarlyStopping.WHEN_FULL,
    )
    return found


def margin(model: XLMEncoderDecoder, request: SequenceRequest, ids: list[int]) -> float:
    """The smallest distance between the best two scores on the way to `ids`, the end included."""
    assert request.source is not None
    source = torch.tensor([request.source.ids])
    given = torch.tensor([[*request.prompt_ids, *ids]])
    with torch.no_grad():
        scores = model(
            source,
            given,
            lengths=torch.tensor([source.shape[1]]),
            langs=torch.full_like(source, request.source.language_id or 0),
            decoder_lengths=torch.tensor([given.shape[1]]),
            decoder_langs=torch.full_like(given, request.language_id or 0),
        ).logits
    best = scores[0].topk(2).values
    return float((best[:, 0] - best[:, 1]).min())
