"""What turns texts into ids and back for one model: everything of it but the weights. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from xlmstream.v1.models_pb2 import INPUT_FORMAT_ORIGINAL, Model

from xlmstream_worker.detokenize import PieceTexts
from xlmstream_worker.xlm import XLMConfig, XLMTokenizer


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
        if not (self.config.use_lang_emb and self.config.n_langs > 1):
            return None
        return self.languages[language] if language else self.config.lang_id


def languages_of(config: XLMConfig) -> dict[str, int]:
    """Language code to the row of its embedding."""
    known = getattr(config, "lang2id", None) or {}
    return {str(code): int(index) for code, index in known.items()}
