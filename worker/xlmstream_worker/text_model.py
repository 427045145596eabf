"""What turns texts into ids and back for one model: everything of it but the weights. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from xlmstream.v1.models_pb2 import INPUT_FORMAT_ORIGINAL, Model

from xlmstream_worker.detokenize import PieceTexts
from xlmstream_worker.xlm import XLMConfig, XLMEncoderDecoderConfig, XLMTokenizer

TRANSLATOR = "XLMEncoderDecoder"
"""What config.json of a translation model names in `architectures`."""


class TextRate:
    """Mean bytes of UTF-8 text a token, over what was tokenised so far; begins as 4, as if a thousand tokens had it."""

    def __init__(self) -> None:
        self._bytes, self._tokens = 4000, 1000

    def note(self, text_bytes: int, tokens: int) -> None:
        """Count one more text."""
        self._bytes += text_bytes
        self._tokens += tokens

    @property
    def counted(self) -> tuple[int, int]:
        """Bytes and tokens so far."""
        return self._bytes, self._tokens

    @property
    def bytes_per_token(self) -> float:
        return self._bytes / self._tokens


@dataclass(frozen=True, slots=True)
class TextModel:
    """A served model as far as texts are concerned."""

    card: Model
    """What gateways and clients learn of it."""
    config: XLMConfig
    """Of a translation model, its encoder's."""
    tokenizer: XLMTokenizer
    pieces: PieceTexts
    languages: Mapping[str, int]
    """Language code to the row of its embedding; empty for a model of one language."""
    text_rate: TextRate
    """For estimating the cost of a text before tokenising it."""
    directory: Path
    """Where its files are."""

    @property
    def full_name(self) -> str:
        """ "name@version"."""
        return f"{self.card.name}@{self.card.version}"

    @property
    def is_original(self) -> bool:
        """Whether inputs are framed as XLM was pre-trained, not as transformers does."""
        return self.card.input_format == INPUT_FORMAT_ORIGINAL

    @property
    def begin_id(self) -> int:
        """The token before a text: `</s>` as XLM was pre-trained, `<s>` as transformers feeds it."""
        return self.config.eos_index if self.is_original else self.config.bos_index

    @property
    def end_id(self) -> int:
        """The token after a text, which ends a generated one."""
        return self.config.eos_index

    def language_id(self, language: str) -> int | None:
        """The language embedding of a text, or None where the model has none."""
        if not self.config.states_languages:
            return None
        return self.languages[language] if language else self.config.lang_id


def config_of(directory: Path, causal: bool | None = None) -> XLMConfig:
    """The configuration in a model's directory; of a translation model, its encoder's. `causal` overrides what it says.

    Raises XLMError for a file that is missing or no model's.
    """
    if is_translator(directory):
        return XLMEncoderDecoderConfig.from_pretrained(directory).encoder
    return XLMConfig.from_pretrained(directory, **({} if causal is None else {"causal": causal}))


def is_translator(directory: Path) -> bool:
    """Whether config.json is that of a translation model; what is wrong with the file is told by who reads it."""
    try:
        values = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and values.get("architectures") == [TRANSLATOR]


def languages_of(config: XLMConfig) -> dict[str, int]:
    """Language code to the row of its embedding."""
    known = getattr(config, "lang2id", None) or {}
    return {str(code): int(index) for code, index in known.items()}
