"""From a client's GenerationParameters to what the engine is asked for. Ranges are checked by gateway and engine."""

from __future__ import annotations

from collections.abc import Mapping

from xlmstream.v1.generation_pb2 import (
    EARLY_STOPPING_HEURISTIC,
    EARLY_STOPPING_NEVER,
    EARLY_STOPPING_UNSPECIFIED,
    EARLY_STOPPING_WHEN_FULL,
    GenerationParameters,
)
from xlmstream.v1.generation_pb2 import EarlyStopping as WireEarlyStopping
from xlmstream.v1.models_pb2 import DecodingMode as WireDecodingMode

from xlmstream_worker.models import LoadedModel
from xlmstream_worker.sequences import BeamParameters, BeamRules, EarlyStopping, SamplingParameters

DEFAULT_MAX_NEW_TOKENS = 64

_EARLY_STOPPING: Mapping[WireEarlyStopping.ValueType, EarlyStopping] = {
    EARLY_STOPPING_UNSPECIFIED: EarlyStopping.HEURISTIC,
    EARLY_STOPPING_HEURISTIC: EarlyStopping.HEURISTIC,
    EARLY_STOPPING_WHEN_FULL: EarlyStopping.WHEN_FULL,
    EARLY_STOPPING_NEVER: EarlyStopping.NEVER,
}


def effective_parameters(
    asked: GenerationParameters,
    seed: int,
    default_mode: WireDecodingMode.ValueType,
    default_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
) -> GenerationParameters:
    """The parameters with every default filled in; what stays unset has no limit."""
    effective = GenerationParameters(
        max_new_tokens=default_new_tokens,
        min_new_tokens=0,
        temperature=0.0,
        top_p=1.0,
        min_p=0.0,
        typical_p=1.0,
        repetition_penalty=1.0,
        presence_penalty=0.0,
        frequency_penalty=0.0,
        no_repeat_ngram_size=0,
        seed=seed,
        ignore_eos=False,
        num_return_sequences=1,
        echo=False,
    )
    if asked.HasField("num_beams"):
        effective.length_penalty = 1.0
        effective.early_stopping = EARLY_STOPPING_HEURISTIC
    effective.MergeFrom(asked)
    effective.decoding_mode = asked.decoding_mode or default_mode
    return effective


def sampling_of(parameters: GenerationParameters, model: LoadedModel, language: str) -> SamplingParameters:
    """`parameters` are effective ones."""
    words = (_ids_of_word(model, word, language) for word in parameters.bad_words)
    return SamplingParameters(
        logit_bias=tuple(sorted(parameters.logit_bias.items())),
        repetition_penalty=parameters.repetition_penalty,
        presence_penalty=parameters.presence_penalty,
        frequency_penalty=parameters.frequency_penalty,
        no_repeat_ngram_size=parameters.no_repeat_ngram_size,
        bad_words=tuple(word for word in words if word),
        temperature=parameters.temperature,
        top_k=parameters.top_k,
        top_p=parameters.top_p,
        min_p=parameters.min_p,
        typical_p=parameters.typical_p,
        seed=parameters.seed,
    )


def beam_search_of(
    parameters: GenerationParameters, rules: BeamRules = BeamRules.TRANSFORMERS
) -> BeamParameters | None:
    """`parameters` are effective ones."""
    if not parameters.HasField("num_beams"):
        return None
    early_stopping = _EARLY_STOPPING.get(parameters.early_stopping, EarlyStopping.HEURISTIC)
    return BeamParameters(parameters.num_beams, parameters.length_penalty, early_stopping, rules)


def _ids_of_word(model: LoadedModel, word: str, language: str) -> tuple[int, ...]:
    encoding = model.tokenizer(word, lang=language or "en", add_special_tokens=False, split_special_tokens=True)
    return tuple(encoding["input_ids"])
