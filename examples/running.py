"""A whole service in the background, for the examples: `xlmstream up` as a child process."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import IO

from xlmstream import Client, Unavailable

START_TIMEOUT_S = 120.0


@contextlib.contextmanager
def service(models: Sequence[str]) -> Iterator[str]:
    """Serve model directories; gives the address once all of them answer, stops everything at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "xlmstream.cli", "up", "--listen", address, *models],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait(address, len(models), process, log)
            yield address
        finally:
            process.terminate()
            process.wait(timeout=60)


def _wait(address: str, models: int, process: subprocess.Popen[bytes], log: IO[str]) -> None:
    """Until all models are served. SystemExit with the service's own words where it ended or took too long."""
    deadline = time.monotonic() + START_TIMEOUT_S
    with Client(address) as client:
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                log.seek(0)
                raise SystemExit(f"the service did not start:\n{log.read()}")
            with contextlib.suppress(Unavailable):
                if len(client.models()) == models:
                    return
            time.sleep(0.1)
