"""One gateway and one worker process that serves a tiny model for each head."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
from e2e.service import PATIENCE_S
from grpc_health.v1 import health_pb2, health_pb2_grpc
from xlmstream_server.broker.embedded import EmbeddedBroker

# A new process imports torch and warms up all models.
START_S = 2 * PATIENCE_S


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
        address = gateway.stdout.readline().rpartition(" ")[2].strip()
        with grpc.insecure_channel(address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for model in models:
                request = health_pb2.HealthCheckRequest(service=f"model/{model.partition('=')[0]}")
                for answer in health.Watch(request, timeout=START_S):
                    assert worker.poll() is None, (home / "log").read_text()
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        break
        yield address
