"""The service as real processes on this machine, with their CPU seconds, and a bare gRPC echo to hold them against."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc
from xlmstream_server.broker.embedded import EmbeddedBroker

START_TIMEOUT_S = 120


@dataclass(frozen=True)
class Service:
    """A running gateway, broker and worker."""

    address: str
    broker_url: str
    processes: Mapping[str, psutil.Process]

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds each process has used so far, all its threads together, user and system."""
        return {name: cpu_s(process) for name, process in self.processes.items()}


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def service(models: Sequence[str], *, slots: int, threads: int = 1) -> Iterator[Service]:
    """Start embedded broker, gateway and one worker; ready when every model answers."""
    address = f"127.0.0.1:{free_port()}"
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        broker = stack.enter_context(EmbeddedBroker(Path(scratch) / "broker"))
        log = stack.enter_context((Path(scratch) / "log").open("w+", encoding="utf-8"))
        gateway = stack.enter_context(
            process(["xlmstream_server", "--broker", broker.url, "--listen", address], log.fileno())
        )
        worker_flags = ["--broker", broker.url, "--slots", str(slots), "--threads", str(threads), *models]
        worker = stack.enter_context(process(["xlmstream_worker", *worker_flags], log.fileno()))
        names = [model.partition("=")[0] for model in models]
        try:
            wait_serving(address, [f"model/{name}" for name in names], [gateway, worker])
        except RuntimeError as error:
            log.seek(0)
            raise RuntimeError(f"{error}\n{log.read()}") from error
        yield Service(
            address,
            broker.url,
            {
                "gateway": psutil.Process(gateway.pid),
                "worker": psutil.Process(worker.pid),
                "broker": psutil.Process(broker.pid),
            },
        )


@contextlib.contextmanager
def echo() -> Iterator[tuple[str, psutil.Process]]:
    """A bare grpc.aio server whose one unary method gives back what it got: the ceiling of any gateway in Python."""
    address = f"127.0.0.1:{free_port()}"
    with process(["benchmarks.echo", address], None) as server:
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(timeout=START_TIMEOUT_S)
        yield address, psutil.Process(server.pid)


@contextlib.contextmanager
def process(module: Sequence[str], log: int | None) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(
        [sys.executable, "-m", *module], stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment
    )
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.wait(timeout=20)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def wait_serving(address: str, services: Sequence[str], processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Until the health service says SERVING for each of `services`. RuntimeError if a process ends before."""
    deadline = time.monotonic() + START_TIMEOUT_S
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in services:
            while not _serving(stub, name):
                ended = [each.args for each in processes if each.poll() is not None]
                if ended or time.monotonic() > deadline:
                    raise RuntimeError(f"{name} is not served; processes that ended: {ended}")
                time.sleep(0.1)


def _serving(stub: health_pb2_grpc.HealthStub, name: str) -> bool:
    try:
        answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
    except grpc.RpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
