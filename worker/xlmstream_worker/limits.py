"""What a model and an engine can take, and the check of a request against it. Pure values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .sequences import BeamParameters, DecodingMode, SamplingParameters, SequenceRequest

# Of what a request counts; larger numbers fit no tensor.
_MOST = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Limits:
    vocabulary: int
    languages: int
    """0: the model has no language embeddings, and a request's language changes nothing."""
    context_tokens: int
    """Prompt and output of one candidate together."""
    slots: int
    causal: bool
    source_tokens: int = 0
    """Most tokens of a source; 0: the model translates nothing and takes none."""
    source_languages: int = 0
    """Of the encoder, as `languages`."""

    def check(self, request: SequenceRequest) -> None:
        """Raise ValueError, naming the field, unless the request can run."""
        self._check_prompt(request)
        self._check_source(request)
        _require(1 <= request.max_new_tokens <= _MOST, "max_new_tokens", f"1 to {_MOST}", request.max_new_tokens)
        least = request.min_new_tokens
        _require(0 <= least <= request.max_new_tokens, "min_new_tokens", "0 to max_new_tokens", least)
        if request.eos_id is not None:
            self._check_ids("eos_id", (request.eos_id,))
        self._check_ids("stop_ids", request.stop_ids)
        _require(1 <= request.candidates <= self.slots, "candidates", f"1 to {self.slots}", request.candidates)
        top = request.top_logprobs
        _require(top is None or 0 <= top <= self.vocabulary, "top_logprobs", f"0 to {self.vocabulary}", top)
        if request.beam_search is not None:
            self._check_beams(request, request.beam_search)
        ended = sorted(request.ended_candidates)
        holds = all(0 <= candidate < request.candidates for candidate in ended)
        _require(holds, "ended_candidates", f"0 to {request.candidates - 1}", ended)
        if request.forced_ids:
            count = len(request.forced_ids)
            _require(count == request.candidates, "forced_ids", "one tuple per candidate", f"{count} tuples")
            for ids in request.forced_ids:
                self._check_ids("forced_ids", ids)
        self._check_sampling(request.sampling)

    def _check_prompt(self, request: SequenceRequest) -> None:
        if request.mode is DecodingMode.NEXT_TOKEN and not self.causal:
            raise ValueError("mode NEXT_TOKEN needs a causal model; a masked one decodes by MASK_APPEND")
        count, most = len(request.prompt_ids), self.context_tokens - 1
        _require(1 <= count <= most, "prompt_ids", f"1 to {most} ids", f"{count} ids")
        self._check_ids("prompt_ids", request.prompt_ids)
        if request.mask_id is not None:
            self._check_ids("mask_id", (request.mask_id,))
        if request.language_id is not None and self.languages:
            language = request.language_id
            _require(0 <= language < self.languages, "language_id", f"0 to {self.languages - 1}", language)

    def _check_source(self, request: SequenceRequest) -> None:
        source = request.source
        if self.source_tokens == 0:
            _require(source is None, "source", "unset: the model does not translate", source)
            return
        if source is None:
            raise ValueError("source must be set: the model translates")
        if request.mode is not DecodingMode.NEXT_TOKEN:
            raise ValueError("mode must be NEXT_TOKEN: the model translates")
        count = len(source.ids)
        _require(1 <= count <= self.source_tokens, "source.ids", f"1 to {self.source_tokens} ids", f"{count} ids")
        self._check_ids("source.ids", source.ids)
        if source.language_id is not None and self.source_languages:
            most = self.source_languages - 1
            _require(0 <= source.language_id <= most, "source.language_id", f"0 to {most}", source.language_id)

    def _check_beams(self, request: SequenceRequest, wish: BeamParameters) -> None:
        _require(1 <= wish.beams <= self.slots, "beams", f"1 to {self.slots}", wish.beams)
        _require(request.candidates <= wish.beams, "candidates", f"at most beams, {wish.beams}", request.candidates)
        # Beyond, powers of a length leave the range of numbers.
        _require(-10 <= wish.length_penalty <= 10, "length_penalty", "-10 to 10", wish.length_penalty)
        temperature = request.sampling.temperature
        _require(temperature == 0, "temperature", "0 in beam search", temperature)
        _require(request.top_logprobs is None, "top_logprobs", "unset in beam search", request.top_logprobs)

    def _check_sampling(self, sampling: SamplingParameters) -> None:
        temperature, top_p = sampling.temperature, sampling.top_p
        # Divided by much more, the score of an excluded token would be as good as any.
        _require(0 <= temperature <= 100, "temperature", "0 to 100", temperature)
        _require(0 <= sampling.top_k <= self.vocabulary, "top_k", f"0 to {self.vocabulary}", sampling.top_k)
        _require(0 < top_p <= 1, "top_p", "above 0, at most 1", top_p)
        _require(0 <= sampling.min_p <= 1, "min_p", "0 to 1", sampling.min_p)
        _require(0 < sampling.typical_p <= 1, "typical_p", "above 0, at most 1", sampling.typical_p)
        penalty = sampling.repetition_penalty
        _require(math.isfinite(penalty) and penalty > 0, "repetition_penalty", "above 0", penalty)
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(sampling, name)
            _require(math.isfinite(value), name, "finite", value)
        ngram = sampling.no_repeat_ngram_size
        _require(0 <= ngram <= _MOST, "no_repeat_ngram_size", f"0 to {_MOST}", ngram)
        for word in sampling.bad_words:
            _require(len(word) > 0, "bad_words", "sequences of at least one id", word)
            self._check_ids("bad_words", word)
        ids = [token for token, _ in sampling.logit_bias]
        self._check_ids("logit_bias", ids)
        _require(len(set(ids)) == len(ids), "logit_bias", "each id at most once", ids)
        for token, bias in sampling.logit_bias:
            _require(
                not math.isnan(bias) and bias < math.inf, "logit_bias", "a number or minus infinity", (token, bias)
            )

    def _check_ids(self, name: str, ids: Sequence[int]) -> None:
        for place, token in enumerate(ids):
            _require(0 <= token < self.vocabulary, f"{name}[{place}]", f"0 to {self.vocabulary - 1}", token)


def _require(holds: bool, name: str, expected: str, value: object) -> None:
    if not holds:
        raise ValueError(f"{name} must be {expected}, got {value}")
