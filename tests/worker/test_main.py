"""The command: what it refuses, and how it says so."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import redis
import torch
from worker.toy import make_model
from xlmstream_worker import __main__ as command
from xlmstream_worker import observe, options, process
from xlmstream_worker.ready import FRESH_S, ReadyFile, is_fresh

BROKER = ["--broker", "redis://127.0.0.1:1"]


@pytest.fixture(autouse=True)
def leave_this_process_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command believes that the process is its own."""
    monkeypatch.setattr(observe, "set_up", lambda level, form: None)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)


def failure(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as left:
        command.main(arguments)
    assert left.value.code == 2
    return capsys.readouterr().err


def test_help_names_every_option_and_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        command.main(["--help"])
    assert left.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for option in ("--broker", "--lease-s", "--device", "--dtype", "--slots", "--threads", "--ready-file", "--causal"):
        assert option in text
    assert "in seconds (default: 5.0)" in text
    for shown in ("--broker URL", "--lease-s SECONDS", "--device cpu|cuda|cuda:N", "--slots N", "--ready-file FILE"):
        assert shown in text
    assert not re.search(r"\b(STR|INT|FLOAT)\b", text)


def test_a_health_check_costs_no_pytorch(tmp_path: Path) -> None:
    check = "import sys; from xlmstream_worker.__main__ import main; code = main(['--check-ready-file', 'x'])"
    done = subprocess.run([sys.executable, "-c", f"{check}; sys.exit(code + ('torch' in sys.modules))"], cwd=tmp_path)
    assert done.returncode == 1


def test_an_unknown_flag(toy_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "unrecognized arguments: --slot" in failure([*BROKER, "--slot", "3", str(toy_directory)], capsys)


def test_no_broker(toy_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "broker must be a redis://" in failure([str(toy_directory)], capsys)


def test_no_gpu(toy_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert "PyTorch sees no GPU" in failure([*BROKER, "--device", "cuda", str(toy_directory)], capsys)


def test_a_broker_that_would_lose_work(
    toy_directory: Path, broker_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with redis.Redis.from_url(broker_url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            assert "noeviction" in failure(["--broker", broker_url, str(toy_directory)], capsys)
        finally:
            client.config_set("maxmemory-policy", "noeviction")


def test_a_broker_of_several_shards(toy_directory: Path, broker_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with redis.Redis.from_url(broker_url) as client:
        client.set("xs:{registry}:shards", 3)
        assert "3" in failure(["--broker", broker_url, str(toy_directory)], capsys)
        assert "shards must be 1 to 256" in failure([*BROKER, "--shards", "0", str(toy_directory)], capsys)
        config = options.load(command_arguments(["--broker", broker_url, "--shards", "3", str(toy_directory)]), {})
        model = SimpleNamespace(full_name="toy@1")
        broker = process._connect(config.broker, model, "w", threading.Event())
        assert {client.zcard(f"xs:{{{shard}}}:ws") for shard in range(3)} == {1}
        broker.close()


@pytest.mark.parametrize("masked", [False, True])
def test_engines_are_warm_before_the_first_word_to_the_broker(
    masked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever gateways learn of a worker, and its ready file, comes after that."""
    said: list[str] = []

    def warmed(kind: type) -> None:
        warm_up = kind.warm_up
        monkeypatch.setattr(kind, "warm_up", lambda engine: (warm_up(engine), said.append(kind.__name__)))

    class Left(Exception):
        pass

    def connect(*_: object, **__: object) -> None:
        said.append("broker")
        raise Left

    warmed(process.DecoderEngine)
    warmed(process.EncoderEngine)
    monkeypatch.setattr(process.WorkerBroker, "connect", connect)
    directory = make_model(tmp_path / "toy", masked=masked)
    ready = tmp_path / "ready"
    arguments = command_arguments([*BROKER, "--ready-file", str(ready), str(directory)])
    with pytest.raises(Left):
        process.run(options.load(arguments, {}))
    assert said == ["DecoderEngine", "EncoderEngine", "broker"]
    assert not ready.exists()


def command_arguments(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    options.add_options(parser)
    return parser.parse_args(given)


def edit(directory: Path, name: str, **changes: object) -> None:
    content = json.loads((directory / name).read_text())
    (directory / name).write_text(json.dumps(content | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "config.json").unlink(), "config.json"),
        (lambda d: (d / "config.json").write_text("{"), "config.json"),
        (lambda d: edit(d, "config.json", architectures=["XLMForSpeech"]), "architecture XLMForSpeech is none of"),
        (lambda d: edit(d, "config.json", n_layers=3), "its weights lack transformer.attentions.2"),
        (lambda d: edit(d, "config.json", emb_dim=33), "emb_dim"),
        (lambda d: edit(d, "config.json", vocab_size=100), "beyond the 100 of config.json"),
        (lambda d: edit(d, "vocab.json", **{"\ud800": 122}), "no valid Unicode"),
        (lambda d: (d / "vocab.json").unlink(), "vocab.json"),
        (lambda d: (d / "merges.txt").unlink(), "merges.txt"),
        (lambda d: (d / "model.safetensors").unlink(), "holds no weights"),
        (lambda d: (d / "model.safetensors").write_bytes(b"x" * 99), "model.safetensors"),
        (lambda d: (d / "xlmstream.json").write_text('{"default_language": "de"}'), "unknown default language 'de'"),
        (lambda d: (d / "xlmstream.json").write_text('{"speed": 3}'), "unknown key"),
    ],
)
def test_a_damaged_model(damage: object, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = make_model(tmp_path / "toy")
    damage(directory)
    assert message in failure([*BROKER, str(directory)], capsys)


def test_the_ready_file_is_fresh_while_all_models_are_well(tmp_path: Path) -> None:
    path = tmp_path / "ready"
    check = ["--check-ready-file", str(path)]
    assert command.main(check) == 1
    ready = ReadyFile(str(path), ["a", "b"])
    ready.beat("a")()
    assert not path.exists()
    ready.beat("b")()
    assert command.main(check) == 0
    stale = time.time() - FRESH_S - 1
    os.utime(path, (stale, stale))
    assert not is_fresh(path)
    ready.remove()
    assert command.main(check) == 1
