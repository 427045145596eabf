"""The configuration of one worker process: one frozen, validated value per concern.

Each field made by `_option` is an option of that name; `options` reads it from flags, environment and file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

MODEL_CHOICES = ("version", "causal", "input_format", "default_language", "dtype", "translations")
"""What may be chosen for a model: in flags, in [[models]], or in the `xlmstream.json` of its directory."""

DTYPES = ("float32", "bfloat16", "float16")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class ConfigError(ValueError):
    """An option is unknown, missing or out of range; the message names it and what is allowed."""


def _option(default: str | float, help_text: str, *, secret: bool = False, metavar: str = "") -> Any:
    """A field that is an option; secret ones stay out of `repr` and so out of every log.

    `metavar` stands for its value in `--help`, unless that is one of a few words or a number.
    """
    return field(default=default, repr=not secret, metadata={"help": help_text, "metavar": metavar})


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{name} must be above 0, got {value}")


@dataclass(frozen=True, slots=True)
class BrokerConfig:
    """Where the queue is, and how long a silent worker is believed alive."""

    broker: str = _option("", "Redis or Valkey: redis://, rediss:// or unix:// (required)", secret=True, metavar="URL")
    allow_volatile: bool = _option(False, "accept a broker without append-only file: its crash loses what it held")
    shards: int = _option(1, "shards of the broker, 1 to 256; the same for every process of an installation")
    lease_s: float = _option(5.0, "a worker silent for this long is given up and its work taken over, in seconds")
    stall_limit_s: float = _option(30.0, "a decode loop stuck for this long gives its work up, in seconds")
    drain_grace_s: float = _option(20.0, "after SIGTERM, let running work finish for this long, then hand it over")

    def __post_init__(self) -> None:
        if urlsplit(self.broker).scheme not in ("redis", "rediss", "unix"):
            raise ConfigError("broker must be a redis://, rediss:// or unix:// URL")
        if not 1 <= self.shards <= 256:
            raise ConfigError(f"shards must be 1 to 256, got {self.shards}")
        _positive("lease_s", self.lease_s)
        _positive("stall_limit_s", self.stall_limit_s)
        if not (math.isfinite(self.drain_grace_s) and self.drain_grace_s >= 0):
            raise ConfigError(f"drain_grace_s must be 0 or more, got {self.drain_grace_s}")


@dataclass(frozen=True, slots=True)
class DeviceConfig:
    """What the models compute on, and how much at once."""

    device: str = _option("cpu", "what the models compute on", metavar="cpu|cuda|cuda:N")
    dtype: Literal["float32", "bfloat16", "float16"] = _option(
        "float32", "what models compute in, if not told otherwise"
    )
    slots: int = _option(32, "most sequences a model decodes at once, 1 to 4096")
    batch_tokens: int = _option(0, "most tokens a model encodes at once; 0: 2048 on a CPU, 16384 on a GPU")
    tokenizers: int = _option(
        0, "processes that tokenise for each model's encoder tasks; 1: the worker's own; 0: on a GPU half of the cores"
    )
    threads: int = _option(0, "threads of PyTorch on the CPU; 0 lets PyTorch choose")

    def __post_init__(self) -> None:
        if not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            raise ConfigError(f'device must be "cpu", "cuda" or "cuda:N", got {self.device!r}')
        if not 1 <= self.slots <= 4096:
            raise ConfigError(f"slots must be 1 to 4096, got {self.slots}")
        if not 0 <= self.batch_tokens <= 2**24:
            raise ConfigError(f"batch_tokens must be 0 to {2**24}, got {self.batch_tokens}")
        if not 0 <= self.tokenizers <= 64:
            raise ConfigError(f"tokenizers must be 0 to 64, got {self.tokenizers}")
        if not 0 <= self.threads <= 1024:
            raise ConfigError(f"threads must be 0 to 1024, got {self.threads}")


@dataclass(frozen=True, slots=True)
class ProcessConfig:
    """How the process shows itself to whoever runs it."""

    ready_file: str = _option(
        "", "touch this file every few seconds while the worker serves; remove it at the end", metavar="FILE"
    )
    log_level: Literal["debug", "info", "warning", "error"] = _option("info", "least severe level that is logged")
    log_format: Literal["text", "json"] = _option("text", "one line of text or one JSON object per entry")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One model to serve. None: as its directory says, else the default."""

    path: Path
    name: str
    version: str | None = None
    """Default "1"."""
    causal: bool | None = None
    """Default: what config.json says. The released clm checkpoints say false and need true."""
    input_format: Literal["huggingface", "original"] | None = None
    """Default "huggingface"."""
    default_language: str | None = None
    """Default: the language whose id is `lang_id` in config.json."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Default: that of the device."""
    translations: Sequence[str] | None = None
    """Of a translation model, what it was trained for: "en-fr" from English to French. Default: between any two of its
    languages."""

    def __post_init__(self) -> None:
        _check_name("model name", self.name)
        if self.version is not None:
            _check_name(f"version of model {self.name}", self.version)
        if not self.path.is_dir():
            raise ConfigError(f"model {self.name}: {self.path} is not a directory")
        if self.causal is not None and type(self.causal) is not bool:
            raise ConfigError(f"causal of model {self.name} must be true or false, got {self.causal!r}")
        if self.input_format not in (None, "huggingface", "original"):
            raise ConfigError(f"input_format of model {self.name} must be huggingface or original")
        if self.default_language is not None and type(self.default_language) is not str:
            raise ConfigError(f"default_language of model {self.name} must be a language code")
        if self.dtype is not None and self.dtype not in DTYPES:
            raise ConfigError(f"dtype of model {self.name} must be one of {', '.join(DTYPES)}")
        given = self.translations
        if given is not None and not (isinstance(given, list | tuple) and given and all(type(x) is str for x in given)):
            raise ConfigError(f'translations of model {self.name} must be a list such as ["en-fr"], got {given!r}')


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """All of one worker process."""

    broker: BrokerConfig
    device: DeviceConfig
    process: ProcessConfig
    models: tuple[ModelConfig, ...]

    def __post_init__(self) -> None:
        if not self.models:
            raise ConfigError("no model to serve: name at least one model directory")
        names = [(model.name, model.version) for model in self.models]
        if len(set(names)) < len(names):
            raise ConfigError("two models have the same name and version")


def _check_name(what: str, name: object) -> None:
    """Refuse what could not stand in "name@version" or in a queue's key."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(f"{what} must be 1 to 100 letters, digits, '.', '_' and '-', got {name!r}")
