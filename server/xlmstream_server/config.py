"""The gateway's settings: one frozen object, read once from flags, environment and a TOML file, in that order of
precedence, and checked as a whole before anything starts.

Every setting is a field of the dataclasses below and nothing else: its flag (`--max-inputs`), its variable
(`XLMSTREAM_SERVER_MAX_INPUTS`), its place in the file (`[limits]` `max_inputs`) and its line of `--help` follow.
Unknown keys are errors, wherever they stand.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import math
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from xlmstream.version import __version__

ENVIRONMENT_PREFIX = "XLMSTREAM_SERVER_"

Value: TypeAlias = bool | int | float | str


class ConfigError(ValueError):
    """A setting is unknown, malformed or out of range; the message names it and where it was found."""


def setting(
    default: Value, help_text: str, *, least: float = -math.inf, most: float = math.inf, metavar: str = ""
) -> Any:
    """A field of a settings class: its default, its line of `--help`, and the range of a number.

    `metavar` stands for its value in `--help`; a number has its unit there, as its name says it.
    """
    metadata = {"help": help_text, "least": least, "most": most, "metavar": metavar}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the gateway refuses before it accepts a request. Told to callers by GetServerInfo."""

    max_inputs: int = setting(256, "most inputs of one unary call", least=1, most=65536)
    max_text_bytes: int = setting(1 << 20, "longest text, in bytes of UTF-8", least=1)
    max_message_bytes: int = setting(4 << 20, "largest request message, in bytes", least=1024, most=1 << 30)
    max_new_tokens: int = setting(2048, "largest GenerationParameters.max_new_tokens", least=1)
    max_unary_calls: int = setting(256, "unary inference calls outstanding at once; more are refused", least=1)
    max_stream_items: int = setting(1024, "items of one InferStream unfinished at once; more are refused", least=1)
    default_deadline_s: int = setting(600, "deadline of a call that has none", least=1)
    max_deadline_s: int = setting(3600, "longest deadline; a later one is cut to it", least=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """Bounds of what waits for a worker, of each model. New work beyond them is refused with a time to come back."""

    queue_max_requests: int = setting(4096, "most requests that wait", least=1)
    queue_max_bytes: int = setting(64 << 20, "most bytes of requests that wait", least=1)
    queue_max_tokens: int = setting(4_000_000, "most estimated tokens that wait, prompts and outputs together", least=1)
    shards: int = setting(1, "shards of the broker; the same for every process of an installation", least=1, most=256)


@dataclass(frozen=True, slots=True, kw_only=True)
class Jobs:
    """Bounds of what jobs hold, of each tenant and shard, and of the chunks that workers take."""

    jobs_max_bytes: int = setting(1 << 30, "most bytes of inputs and results; uploads beyond are refused", least=1)
    jobs_max_count: int = setting(10_000, "most jobs, ended ones included", least=1)
    chunk_max_items: int = setting(256, "most items of a chunk", least=1, most=4096)
    chunk_max_bytes: int = setting(256 << 10, "most bytes of a chunk; an item alone may have more", least=1)
    chunk_max_tokens: int = setting(16_384, "most estimated tokens of a chunk: about a second of work", least=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """How results are relayed."""

    buffer_events: int = setting(256, "events kept for a slow reader; beyond, it is repaired from the journal", least=1)
    heartbeat_s: float = setting(10.0, "silence after which a stream gets a heartbeat", least=0.05)
    audit_s: float = setting(5.0, "silence after which the broker is asked about an execution", least=0.05)
    write_stall_s: float = setting(60.0, "how long a reader may block one message before its call is ended", least=0.05)


@dataclass(frozen=True, slots=True, kw_only=True)
class Connections:
    """How client connections live and end."""

    max_connection_age_s: int = setting(1800, "after this a connection is asked to reconnect, to spread load", least=1)
    max_connection_age_grace_s: int = setting(600, "how long its open calls may go on after that", least=1)
    keepalive_s: int = setting(60, "silence after which a client is probed", least=1)
    drain_s: float = setting(30.0, "how long open calls may go on after SIGTERM", least=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observe:
    """What operators see."""

    metrics: str = setting(
        "", "serve Prometheus metrics here, for example on 127.0.0.1:9464; empty: off", metavar="HOST:PORT"
    )
    log_level: str = setting("info", "least severe level that is logged", metavar="debug|info|warning|error")
    log_format: str = setting("json", "one JSON object or one line of text per entry", metavar="json|text")


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """Everything a gateway process is told."""

    listen: str = setting("127.0.0.1:50051", "where to serve gRPC; port 0 takes a free one", metavar="HOST:PORT")
    broker: str = setting("redis://127.0.0.1:6379/0", "the Redis or Valkey server that queues the work", metavar="URL")
    allow_volatile: bool = setting(False, "accept a broker without append-only file: its crash loses what it held")
    dev: bool = setting(False, "serve reflection, so that grpcurl and the like can explore the API")
    limits: Limits = dataclasses.field(default_factory=Limits)
    queue: Queue = dataclasses.field(default_factory=Queue)
    jobs: Jobs = dataclasses.field(default_factory=Jobs)
    streams: Streams = dataclasses.field(default_factory=Streams)
    connections: Connections = dataclasses.field(default_factory=Connections)
    observe: Observe = dataclasses.field(default_factory=Observe)

    def __post_init__(self) -> None:
        for _, key, owner in _settings(self):
            _check(key, getattr(owner, key.name))
        _check_address("listen", self.listen)
        _check_broker(self.broker)
        if self.observe.metrics:
            _check_address("metrics", self.observe.metrics)
        _check_choice("log_level", self.observe.log_level, ("debug", "info", "warning", "error"))
        _check_choice("log_format", self.observe.log_format, ("json", "text"))
        if self.limits.default_deadline_s > self.limits.max_deadline_s:
            raise ConfigError("default_deadline_s must not exceed max_deadline_s")


def split_address(address: str) -> tuple[str, int]:
    """("127.0.0.1", 50051) of "127.0.0.1:50051"; an IPv6 host stands in brackets."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"{address!r} is not host:port")
    return host.strip("[]"), int(port)


def load_config(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> GatewayConfig:
    """The settings given by flags, environment and file.

    Raises ConfigError; `--help` and malformed flags end the process as argparse does.
    """
    flags = vars(_parser().parse_args(arguments))
    path = flags.pop("config", None) or environment.get(ENVIRONMENT_PREFIX + "CONFIG")
    given = _from_file(Path(path)) if path else {}
    given |= _from_environment(environment)
    given |= {name: value for name, value in flags.items() if value is not None}
    return _build(GatewayConfig, given)


def _settings(config: GatewayConfig | type[GatewayConfig]) -> Iterator[tuple[str, dataclasses.Field[Any], Any]]:
    """(section, field, owner) of every setting; the section of top-level ones is ""."""
    for field in dataclasses.fields(config):
        if "help" in field.metadata:
            yield "", field, config
        else:
            section: Any = getattr(config, field.name) if isinstance(config, GatewayConfig) else field.default_factory
            for inner in dataclasses.fields(section):
                yield field.name, inner, section


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="xlmstream-server",
        description="The gateway: takes gRPC calls, queues them, streams results back.",
        epilog=f"Every flag is also a variable, for example {ENVIRONMENT_PREFIX}MAX_INPUTS=64, and a key of the file.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("--config", metavar="FILE", help="TOML file with these settings, in sections as shown here")
    groups: dict[str, argparse._ArgumentGroup] = {}
    for section, field, _ in _settings(GatewayConfig):
        group = groups.setdefault(section, parser.add_argument_group(f"[{section}]" if section else "settings"))
        flag, help_text = "--" + field.name.replace("_", "-"), field.metadata["help"].replace("%", "%%")
        if isinstance(field.default, bool):
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=help_text)
        else:
            help_text += f" (default: {field.default or 'none'})"
            group.add_argument(flag, metavar=field.metadata["metavar"] or _unit(field.name), help=help_text)
    return parser


def _unit(name: str) -> str:
    """What a number of that name counts."""
    return {"s": "SECONDS", "bytes": "BYTES"}.get(name.rpartition("_")[2], "N")


def _from_file(path: Path) -> dict[str, object]:
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as cause:
        raise ConfigError(f"{path}: {cause}") from cause
    known = {(section, field.name) for section, field, _ in _settings(GatewayConfig)}
    given: dict[str, object] = {}
    for name, value in tree.items():
        is_section = isinstance(value, dict)
        if is_section and name not in {section for section, _ in known}:
            raise ConfigError(f"{path}: unknown section [{name}]")
        for section, key, leaf in [(name, *pair) for pair in value.items()] if is_section else [("", name, value)]:
            if (section, key) not in known:
                raise ConfigError(f"{path}: unknown key {f'{section}.{key}'.lstrip('.')!r}" + _suggestion(key))
            given[key] = leaf
    return given


def _from_environment(environment: Mapping[str, str]) -> dict[str, object]:
    known = {field.name for _, field, _ in _settings(GatewayConfig)}
    given: dict[str, object] = {}
    for variable, text in environment.items():
        if variable.startswith(ENVIRONMENT_PREFIX) and variable != ENVIRONMENT_PREFIX + "CONFIG":
            key = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
            if key not in known:
                raise ConfigError(f"unknown variable {variable}" + _suggestion(key))
            given[key] = text
    return given


def _build(config: type[GatewayConfig], given: Mapping[str, object]) -> GatewayConfig:
    top: dict[str, Any] = {}
    sections: dict[str, dict[str, Any]] = {}
    owners: dict[str, Any] = {}
    for section, field, owner in _settings(config):
        if field.name in given:
            owners[section] = owner
            target = sections.setdefault(section, {}) if section else top
            target[field.name] = _convert(field, given[field.name])
    return config(**top, **{section: owners[section](**values) for section, values in sections.items()})


def _convert(field: dataclasses.Field[Any], value: object) -> Value:
    """`value` in the type of the field's default: text is parsed, a typed value must already fit."""
    kind: type[Any] = type(field.default)
    if isinstance(value, str) and kind is not str:
        try:
            if kind is bool:
                return {"true": True, "1": True, "false": False, "0": False}[value.strip().lower()]
            return int(value) if kind is int else float(value)
        except (ValueError, KeyError):
            raise ConfigError(f"{field.name}: {value!r} is not {_KIND_NAMES[kind]}") from None
    if kind is float and type(value) is int:
        return float(value)
    if not isinstance(value, (bool, int, float, str)) or type(value) is not kind:
        raise ConfigError(f"{field.name}: {value!r} is not {_KIND_NAMES[kind]}")
    return value


_KIND_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def _check(field: dataclasses.Field[Any], value: object) -> None:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        least, most = field.metadata["least"], field.metadata["most"]
        if not least <= value <= most or not math.isfinite(value):
            bounds = f"at least {least:g}" if most == math.inf else f"{least:g} to {most:g}"
            raise ConfigError(f"{field.name}: {value} is out of range: {bounds}")


def _check_address(name: str, address: str) -> None:
    try:
        split_address(address)
    except ConfigError as cause:
        raise ConfigError(f"{name}: {cause}") from None


def _check_broker(url: str) -> None:
    """The message does not quote the URL, which may hold a password."""
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ConfigError("broker: must be a redis://, rediss:// or unix:// URL")
    try:
        _ = parts.port
    except ValueError:
        raise ConfigError("broker: its port is not a number, or none up to 65535") from None


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ConfigError(f"{name}: {value!r} is not one of {', '.join(choices)}")


def _suggestion(key: str) -> str:
    close = difflib.get_close_matches(key, [field.name for _, field, _ in _settings(GatewayConfig)], 1)
    return f"; did you mean {close[0]!r}?" if close else ""
