"""Where the configuration comes from: flags, environment variables, a TOML file.

Every option has one name. `lease_s` of [broker] is the flag `--lease-s`, the environment variable
`XLMSTREAM_WORKER_LEASE_S` and the key `lease_s` in the table [broker] of the file named by `--config`. A flag wins over
the environment, the environment over the file, the file over the default. Unknown flags, keys and variables are errors:
a misspelt option never passes for its default.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tomllib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from xlmstream_worker.config import (
    MODEL_CHOICES,
    BrokerConfig,
    ConfigError,
    DeviceConfig,
    ModelConfig,
    ProcessConfig,
    WorkerConfig,
)

ENVIRONMENT_PREFIX = "XLMSTREAM_WORKER_"

_SECTIONS = {"broker": BrokerConfig, "device": DeviceConfig, "process": ProcessConfig}
_SectionT = TypeVar("_SectionT", BrokerConfig, DeviceConfig, ProcessConfig)
_Table = Mapping[str, Any]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare every option, the config file and the models on the command line."""
    parser.add_argument("--config", metavar="FILE", help="TOML file: tables [broker], [device], [process], [[models]]")
    for name, section in _SECTIONS.items():
        group = parser.add_argument_group(name)
        for option in dataclasses.fields(section):
            choices, kind = _domain(section, option.name)
            flag = f"--{option.name.replace('_', '-')}"
            if kind is bool:
                group.add_argument(flag, action=argparse.BooleanOptionalAction, help=option.metadata["help"])
                continue
            default = "" if option.default == "" else f" (default: {option.default})"
            metavar = "|".join(choices) or option.metadata["metavar"] or ("SECONDS" if flag.endswith("-s") else "N")
            group.add_argument(flag, metavar=metavar, help=option.metadata["help"] + default)
    models = parser.add_argument_group("models", "Each directory may hold an xlmstream.json with the same options.")
    models.add_argument("models", nargs="*", metavar="[NAME[@VERSION]=]DIR", help="a model to serve")
    models.add_argument("--causal", choices=["true", "false"], help="override what the models' config.json says")
    models.add_argument("--input-format", choices=["huggingface", "original"], help="special tokens around an input")
    models.add_argument("--default-language", metavar="CODE", help="language of an input that names none")


def load(arguments: argparse.Namespace, environment: Mapping[str, str]) -> WorkerConfig:
    """The configuration, or a ConfigError that names the option at fault."""
    file = _read_file(Path(arguments.config)) if arguments.config else {}
    _refuse_unknown("table", file, [*_SECTIONS, "models"])
    known = [_variable(option.name) for section in _SECTIONS.values() for option in dataclasses.fields(section)]
    ours = {name: value for name, value in environment.items() if name.startswith(ENVIRONMENT_PREFIX)}
    _refuse_unknown("environment variable", ours, known)
    return WorkerConfig(
        broker=_section(BrokerConfig, arguments, ours, file.get("broker", {})),
        device=_section(DeviceConfig, arguments, ours, file.get("device", {})),
        process=_section(ProcessConfig, arguments, ours, file.get("process", {})),
        models=(*_models_of_flags(arguments), *_models_of_file(file.get("models", []))),
    )


def parse_model(argument: str) -> tuple[str, str | None, Path]:
    """(name, version, directory) of `NAME[@VERSION]=DIR`, or of `DIR` for a model named after its directory."""
    label, separator, directory = argument.partition("=")
    if not separator or "/" in label:  # a bare path, which may itself hold a "="
        label, directory = Path(argument).resolve().name, argument
    name, at, version = label.partition("@")
    return name, version if at else None, Path(directory)


def _section(
    section: type[_SectionT], arguments: argparse.Namespace, environment: Mapping[str, str], table: _Table
) -> _SectionT:
    _refuse_unknown("key", table, [option.name for option in dataclasses.fields(section)])
    values: dict[str, Any] = {}
    for option in dataclasses.fields(section):
        flag = getattr(arguments, option.name)
        written = flag if flag is not None else environment.get(_variable(option.name))
        if isinstance(written, str):
            values[option.name] = _parse(section, option.name, written)
        elif written is not None:
            values[option.name] = written
        elif option.name in table:
            values[option.name] = _typed(section, option.name, table[option.name])
    return section(**values)


def _domain(section: type[Any], name: str) -> tuple[Sequence[str], type]:
    """(allowed words or none, type) of an option."""
    hint = typing.get_type_hints(section)[name]
    return (typing.get_args(hint), str) if typing.get_origin(hint) is Literal else ((), hint)


def _parse(section: type[Any], name: str, written: str) -> str | int | float:
    """The value of text from a flag or a variable."""
    _, kind = _domain(section, name)
    if kind is bool:
        if written not in ("true", "false"):
            raise ConfigError(f"{name} must be true or false, got {written!r}")
        return written == "true"
    try:
        value: str | int | float = kind(written)
    except ValueError:
        raise ConfigError(f"{name} must be {'a number' if kind is float else 'an integer'}, got {written!r}") from None
    return _typed(section, name, value)


def _typed(section: type[Any], name: str, value: object) -> str | int | float:
    choices, kind = _domain(section, name)
    if choices and value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ConfigError(f"{name} must be {kind.__name__}, got {value!r}")
    return typing.cast(str | int | float, value)


def _models_of_flags(arguments: argparse.Namespace) -> list[ModelConfig]:
    causal = None if arguments.causal is None else arguments.causal == "true"
    return [
        ModelConfig(path, name, version, causal, arguments.input_format, arguments.default_language)
        for name, version, path in map(parse_model, arguments.models)
    ]


def _models_of_file(tables: object) -> list[ModelConfig]:
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigError("models in the configuration file must be tables: [[models]]")
    models = []
    for table in tables:
        _refuse_unknown("model option", table, ["path", "name", *MODEL_CHOICES])
        if not isinstance(table.get("path"), str):
            raise ConfigError("each of [[models]] needs a path")
        name, version, path = parse_model(table["path"])
        models.append(ModelConfig(**({"name": name, "version": version} | table | {"path": path})))
    return models


def with_defaults_of_directory(model: ModelConfig) -> ModelConfig:
    """Fill what nobody chose from `xlmstream.json` in the model's directory, where there is one."""
    path = model.path / "xlmstream.json"
    if not path.exists():
        return model
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from None
    if not isinstance(table, dict):
        raise ConfigError(f"{path} must hold one object")
    _refuse_unknown(f"key in {path}:", table, MODEL_CHOICES)
    return dataclasses.replace(model, **{key: value for key, value in table.items() if getattr(model, key) is None})


def _read_file(path: Path) -> _Table:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None


def _refuse_unknown(what: str, given: Mapping[str, object], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise ConfigError(f"unknown {what} {name!r}; known: {', '.join(known)}")


def _variable(option: str) -> str:
    return ENVIRONMENT_PREFIX + option.upper()
