"""Requests that take every path of an engine once, so that the first request of a client does not pay for it: code that
is compiled or loaded when first used, the widest shapes, the longest prompt."""

from __future__ import annotations

from collections.abc import Iterator

from .limits import Limits
from .sequences import DecodingMode, SamplingParameters, SequenceRequest, Source

# All that may be asked of the choice of a token, among few and among all of them.
_EVERY_CHOICE = tuple(
    SamplingParameters(
        logit_bias=((0, 1.0),), repetition_penalty=1.1, presence_penalty=0.1, frequency_penalty=0.1,
        no_repeat_ngram_size=2, bad_words=((0, 0),),
        temperature=1.0, top_k=top_k, top_p=0.9, min_p=0.01, typical_p=0.9,
    )
    for top_k in (0, 2)
)  # fmt: skip


def warm_up_requests(limits: Limits) -> Iterator[SequenceRequest]:
    """For a model with these limits."""
    source = Source((0,) * limits.source_tokens) if limits.source_tokens else None
    modes = [DecodingMode.NEXT_TOKEN] if limits.causal else []
    modes += [] if source is not None else [DecodingMode.MASK_APPEND]
    for mode in modes:
        yield SequenceRequest(f"warm-up {mode.value}", (0,) * (limits.context_tokens - 1), mode=mode, source=source)
    for number, sampling in enumerate(_EVERY_CHOICE):
        yield SequenceRequest(
            f"warm-up {number}", (0,), mode=modes[0], max_new_tokens=1, sampling=sampling, top_logprobs=1, source=source
        )
