"""Settings come from file, environment and flags, in rising precedence; anything unknown or out of range is refused."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from xlmstream_server.config import ConfigError, GatewayConfig, load_config, split_address


def test_defaults_bind_to_this_machine_only_and_serve_no_reflection() -> None:
    config = load_config([], {})
    assert config == GatewayConfig()
    assert split_address(config.listen)[0] == "127.0.0.1"
    assert not config.dev
    assert not config.observe.metrics


def test_flags_win_over_environment_and_environment_over_file(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(
        'listen = "127.0.0.1:1"\n[limits]\nmax_inputs = 1\nmax_new_tokens = 10\n[streams]\nheartbeat_s = 3\n'
    )
    environment = {"XLMSTREAM_SERVER_CONFIG": str(path), "XLMSTREAM_SERVER_MAX_INPUTS": "2", "PATH": "/bin"}
    config = load_config(["--listen", "[::1]:2", "--dev"], environment)
    assert (config.listen, config.dev) == ("[::1]:2", True)
    assert (config.limits.max_inputs, config.limits.max_new_tokens) == (2, 10)
    assert config.streams.heartbeat_s == 3.0
    assert isinstance(config.streams.heartbeat_s, float)


def test_the_object_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        GatewayConfig().listen = "0.0.0.0:1"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_input = 3", "unknown key 'max_input'; did you mean 'max_inputs'"),
        ("[limits]\nmax_imputs = 3", "unknown key 'limits.max_imputs'; did you mean 'max_inputs'"),
        ("[streams]\nmax_inputs = 3", "unknown key 'streams.max_inputs'"),
        ("[limit]", "unknown section"),
        ("[limits]\nmax_inputs = true", "max_inputs: True is not a whole number"),
        ("[limits]\nmax_inputs = 1.5", "max_inputs: 1.5 is not a whole number"),
        ("[limits]\nmax_inputs = 0", "max_inputs: 0 is out of range: 1 to 65536"),
        ("[streams]\nheartbeat_s = nan", "heartbeat_s: nan is out of range"),
        ("[streams]\nheartbeat_s = inf", "heartbeat_s: inf is out of range"),
        ('dev = "maybe"', "dev: 'maybe' is not true or false"),
        ("listen = 50051", "listen: 50051 is not a text"),
        ('listen = "localhost"', "listen: 'localhost' is not host:port"),
        ('broker = "localhost:6379"', "broker: must be a redis://, rediss:// or unix:// URL"),
        ('broker = "redis://:secret@host:port"', "broker: its port is not a number"),
        ('[observe]\nlog_level = "loud"', "log_level: 'loud' is not one of debug"),
        ("[limits]\ndefault_deadline_s = 4000", "default_deadline_s must not exceed"),
        ("listen =", "gateway.toml"),
    ],
)
def test_a_wrong_file_is_refused_with_the_key_and_the_reason(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load_config(["--config", str(path)], {})
    assert message in str(refused.value)
    assert "secret" not in str(refused.value)


def test_an_unknown_variable_of_ours_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"XLMSTREAM_SERVER_LISTN.*did you mean 'listen'"):
        load_config([], {"XLMSTREAM_SERVER_LISTN": "127.0.0.1:1"})


def test_a_missing_file_is_refused() -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        load_config(["--config", "/nowhere.toml"], {})


def test_an_unknown_or_abbreviated_flag_ends_the_process(capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--max-input", "--max-inp"):
        with pytest.raises(SystemExit):
            load_config([flag, "3"], {})
    assert "unrecognized arguments" in capsys.readouterr().err


def test_help_names_every_setting_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        load_config(["--help"], {})
    text = capsys.readouterr().out
    assert ended.value.code == 0
    config = GatewayConfig()
    leaves = [config, config.limits, config.queue, config.streams, config.connections, config.observe]
    names = [field.name for leaf in leaves for field in dataclasses.fields(leaf) if "help" in field.metadata]
    assert len(names) == len(set(names)) > 20
    for name in names:
        assert f"  --{name.replace('_', '-')}" in text
    shown = " ".join(text.split())
    for option in ("--listen HOST:PORT", "--broker URL", "--drain-s SECONDS", "--max-text-bytes BYTES", "--shards N"):
        assert option in shown
    assert "--log-format json|text one JSON object or one line of text per entry (default: json)" in shown
    assert not re.search(r"\b(STR|INT|FLOAT)\b", text)
