"""One gateway and one worker process that serves a tiny model for each head."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
from e2e.service import PATIENCE_S
from grpc_health.v1 import health_pb2, health_pb2_grpc
from xlmstream_server.broker.embedded import EmbeddedBroker

# A new process imports torch and warms up all models.
START_S = 2 * PATIENCE_S
# How often to look whether it still runs.
LOOK_S = 5.0


@contextmanager
def zoo_service(home: Path, models: Sequence[str]) -> Iterator[str]:
    """Serve the models "NAME=DIR"; gives the gateway's address once all of them answer."""
    with ExitStack() as stack:
        broker = stack.enter_context(EmbeddedBroker(home / "broker"))
        log = stack.enter_context((home / "log").open("w+"))

        def start(*command: str, **streams: int) -> subprocess.Popen[str]:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            process = subprocess.Popen(
                [sys.executable, "-m", *command], stderr=log, text=True, env=environment, **streams
            )
            stack.callback(process.wait, PATIENCE_S)
            stack.callback(process.terminate)
            return process

        gateway = start("xlmstream_server", "--broker", broker.url, "--listen", "127.0.0.1:0", stdout=subprocess.PIPE)
        worker = start("xlmstream_worker", "--broker", broker.url, "--threads", "1", *models, stdout=log.fileno())
        assert gateway.stdout is not None
        stack.callback(gateway.stdout.close)
        line = gateway.stdout.readline()
        assert "ready on " in line, (home / "log").read_text()
        address = line.rpartition(" ")[2].strip()
        expires = time.monotonic() + START_S
        with grpc.insecure_channel(address) as channel:
            for model in models:
                while not _is_served(channel, model.partition("=")[0]):
                    starting = gateway.poll() is None and worker.poll() is None and time.monotonic() < expires
                    assert starting, f"{model} is not served: {(home / 'log').read_text()}"
        yield address


def _is_served(channel: grpc.Channel, model: str) -> bool:
    """Whether the gateway says so within some seconds. On a busy machine even a connection may take longer."""
    request = health_pb2.HealthCheckRequest(service=f"model/{model}")
    answers = health_pb2_grpc.HealthStub(channel).Watch(request, timeout=LOOK_S, wait_for_ready=True)
    try:
        return any(answer.status == health_pb2.HealthCheckResponse.SERVING for answer in answers)
    except grpc.RpcError as error:
        if error.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE):
            return False
        raise
    finally:
        answers.cancel()
