"""XLMEncoderDecoderConfig: the `config.json` of a translation model, a configuration for each side."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from .config import CONFIG_FILE, XLMConfig, read_values
from .errors import ConfigError

ARCHITECTURE = "XLMEncoderDecoder"


@dataclass(frozen=True)
class XLMEncoderDecoderConfig:
    """Two configurations that fit together: `encoder` as of any XLMModel, `decoder` with `is_encoder=False`.

    `dtype` is that of the stored weights, such as "float16". Raises ConfigError if the two do not fit.
    """

    encoder: XLMConfig
    decoder: XLMConfig
    dtype: str | None = None

    def __post_init__(self) -> None:
        encoder, decoder = self.encoder, self.decoder
        for holds, problem in (
            (encoder.is_encoder, "encoder.is_encoder must be true"),
            (not encoder.causal, "encoder.causal must be false: the source is read from both sides"),
            (not decoder.is_encoder, "decoder.is_encoder must be false"),
            (decoder.causal, "decoder.causal must be true"),
            (
                encoder.emb_dim == decoder.emb_dim,
                f"decoder.emb_dim {decoder.emb_dim} must be encoder.emb_dim {encoder.emb_dim}",
            ),
            (
                encoder.vocab_size == decoder.vocab_size,
                f"decoder.vocab_size {decoder.vocab_size} must be encoder.vocab_size {encoder.vocab_size}",
            ),
        ):
            if not holds:
                raise ConfigError(problem)

    def to_dict(self) -> dict[str, object]:
        """What `config.json` holds."""
        return {
            "architectures": [ARCHITECTURE],
            "decoder": json.loads(self.decoder.to_json_string()),
            "dtype": self.dtype,
            "encoder": json.loads(self.encoder.to_json_string()),
            "is_encoder_decoder": True,
            "model_type": XLMConfig.model_type,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Self:
        """The inverse of `to_dict`. ConfigError, naming the side, for values no model can have."""
        sides = {}
        for side in ("encoder", "decoder"):
            section = values.get(side)
            if not isinstance(section, Mapping):
                raise ConfigError(f"a translation model needs a section {side!r} in its configuration")
            try:
                sides[side] = XLMConfig.from_dict(section)
            except ConfigError as error:
                raise ConfigError(f"{side}: {error}") from error
        dtype = values.get("dtype")
        if dtype is not None and not isinstance(dtype, str):
            raise ConfigError(f"dtype must be a name such as float16, not {dtype!r}")
        return cls(sides["encoder"], sides["decoder"], dtype)

    @classmethod
    def from_pretrained(cls, path: str | Path) -> Self:
        """Read the `config.json` of a checkpoint directory, or that file itself.

        Raises CheckpointError if it is missing or no JSON object, ConfigError if it is of no translation model.
        """
        file, values = read_values(path)
        try:
            return cls.from_dict(values)
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from error

    def save_pretrained(self, directory: str | Path) -> None:
        """Write `config.json` into `directory`, creating it if needed."""
        target = Path(directory)
        target.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=2, sort_keys=True)
        (target / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
