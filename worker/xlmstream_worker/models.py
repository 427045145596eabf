"""Loading a served model: its directory becomes configuration, tokenizer, weights, and the card that gateways see.

A directory holds `config.json`, the tokenizer's `vocab.json` and `merges.txt`, the weights, and optionally
`xlmstream.json` with serving choices. Knows nothing of requests, queues or decoding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from xlmstream.v1.common_pb2 import TASK_DETOKENIZE, TASK_GENERATE, TASK_TOKENIZE
from xlmstream.v1.models_pb2 import (
    INPUT_FORMAT_HUGGINGFACE,
    INPUT_FORMAT_ORIGINAL,
    InputFormat,
    Model,
)

from xlmstream_worker.config import ConfigError, DeviceConfig, ModelConfig
from xlmstream_worker.decoding_modes import decoding_modes
from xlmstream_worker.detokenize import PieceTexts
from xlmstream_worker.options import with_defaults_of_directory
from xlmstream_worker.xlm import XLMConfig, XLMTokenizer, XLMWithLMHeadModel

_FORMATS: Mapping[str, InputFormat.ValueType] = {
    "huggingface": INPUT_FORMAT_HUGGINGFACE,
    "original": INPUT_FORMAT_ORIGINAL,
}


class TextRate:
    """Mean bytes of UTF-8 text a token, over what was tokenised so far; begins as 4, as if a thousand tokens had it."""

    def __init__(self) -> None:
        self._bytes, self._tokens = 4000, 1000

    def note(self, text_bytes: int, tokens: int) -> None:
        """Count one more text."""
        self._bytes += text_bytes
        self._tokens += tokens

    @property
    def bytes_per_token(self) -> float:
        return self._bytes / self._tokens


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model as this process serves it."""

    card: Model
    """What gateways and clients learn of it."""
    config: XLMConfig
    tokenizer: XLMTokenizer
    network: XLMWithLMHeadModel
    pieces: PieceTexts
    languages: Mapping[str, int]
    """Language code to the row of its embedding; empty for a model of one language."""
    text_rate: TextRate
    """For estimating the cost of a text before tokenising it."""

    @property
    def full_name(self) -> str:
        """ "name@version"."""
        return f"{self.card.name}@{self.card.version}"

    @property
    def begin_id(self) -> int:
        """The token before a text: `</s>` as XLM was pre-trained, `<s>` as transformers feeds it."""
        original = self.card.input_format == INPUT_FORMAT_ORIGINAL
        return self.config.eos_index if original else self.config.bos_index

    @property
    def end_id(self) -> int:
        """The token after a text, which ends a generated one."""
        return self.config.eos_index

    def language_id(self, language: str) -> int | None:
        """The language embedding of a text, or None where the model has none."""
        if not (self.config.use_lang_emb and self.config.n_langs > 1):
            return None
        return self.languages[language] if language else self.config.lang_id


def load_model(model: ModelConfig, device: DeviceConfig) -> LoadedModel:
    """Read a model directory onto the device.

    Raises:
        ConfigError: a choice does not fit the model, or the model cannot be served.
        XLMError, OSError, ValueError: a file is missing or damaged; the message names it.
    """
    model = with_defaults_of_directory(model)
    overrides = {} if model.causal is None else {"causal": model.causal}
    config = XLMConfig.from_pretrained(model.path, **overrides)
    tokenizer = XLMTokenizer.from_pretrained(model.path)
    _check_vocabulary(model.name, tokenizer, config)
    modes = decoding_modes(config, tokenizer)
    if not modes:
        raise ConfigError(
            f"model {model.name}: a masked model needs a mask token to generate, and its tokenizer has none in the "
            f"{config.vocab_size} ids of config.json"
        )
    languages = _languages(config)
    default_language = _default_language(model, config, languages)
    card = Model(
        name=model.name,
        version=model.version or "1",
        revision=_revision(model, config, default_language),
        tasks=[TASK_GENERATE, TASK_TOKENIZE, TASK_DETOKENIZE],
        languages=sorted(languages),
        max_input_tokens=config.max_position_embeddings,
        vocabulary_size=config.vocab_size,
        dtype=model.dtype or device.dtype,
        causal=config.causal,
        decoding_modes=modes,
        input_format=_FORMATS[model.input_format or "huggingface"],
        default_language=default_language,
    )
    network = XLMWithLMHeadModel.from_pretrained(model.path, config=config, dtype=card.dtype, device=device.device)
    tokenizer.tokenize("Warm up.", lang=default_language or "en")  # its rules are compiled at first use
    pieces = PieceTexts(tokenizer.get_vocab(), frozenset(tokenizer.all_special_ids))
    return LoadedModel(card, config, tokenizer, network, pieces, languages, TextRate())


def _check_vocabulary(name: str, tokenizer: XLMTokenizer, config: XLMConfig) -> None:
    vocabulary = tokenizer.get_vocab()
    if max(tokenizer.encoder.values(), default=-1) >= config.vocab_size:
        raise ConfigError(f"model {name}: vocab.json has ids beyond the {config.vocab_size} of config.json")
    try:
        "".join(vocabulary).encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"model {name}: a piece in vocab.json is no valid Unicode: {error.reason}") from None


def _languages(config: XLMConfig) -> dict[str, int]:
    known = getattr(config, "lang2id", None) or {}
    return {str(code): int(index) for code, index in known.items()}


def _default_language(model: ModelConfig, config: XLMConfig, languages: Mapping[str, int]) -> str:
    if model.default_language is None:
        return next((code for code, index in languages.items() if index == config.lang_id), "")
    if model.default_language not in languages:
        known = ", ".join(sorted(languages)) or "none"
        raise ConfigError(f"model {model.name}: unknown default language {model.default_language!r}; known: {known}")
    return model.default_language


def _revision(model: ModelConfig, config: XLMConfig, default_language: str) -> str:
    """Hash of everything that decides the results, dtype and device aside: the files and the serving choices."""
    choices = [config.causal, model.input_format or "huggingface", default_language]
    digest = hashlib.sha256(json.dumps(choices).encode())
    for path in sorted(path for path in model.path.iterdir() if _decides_results(path)):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _decides_results(path: Path) -> bool:
    return path.is_file() and path.suffix in (".json", ".txt", ".safetensors", ".bin") and path.name != "xlmstream.json"
