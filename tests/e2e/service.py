"""The whole service as real processes: an embedded broker, gateways, workers. Each can be killed and started again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import redis
from grpc_health.v1 import health_pb2, health_pb2_grpc
from xlmstream_server.broker.embedded import EmbeddedBroker

HERE = Path(__file__).parent
PATIENCE_S = 120.0
# What other work on the machine may add to anything that takes time: where a test tells "soon" from "after the lease",
# "at the end" or "never", these lie further off.
BUSY_S = 10.0


def until(condition: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
    """Wait for something outside this process, looking again and again."""
    expires = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < expires, f"{what}: not within {patience_s} s"
        time.sleep(0.01)


async def until_async(condition: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
    """`until`, while other tasks run."""
    expires = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < expires, f"{what}: not within {patience_s} s"
        await asyncio.sleep(0.01)


class WorkerProcess:
    """One worker."""

    def __init__(self, pid: int, log: Path) -> None:
        self.pid = pid
        self._log = log

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    @property
    def alive(self) -> bool:
        return Path(f"/proc/{self.pid}").exists()

    def log(self) -> str:
        return self._log.read_text()

    def told(self, event: str) -> bool:
        """Whether its log has such an entry."""
        return any(entry["event"].startswith(event) for entry in self.entries())

    def entries(self) -> list[dict[str, object]]:
        """Of its log so far, without a line that it is about to write."""
        lines = self.log().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]

    def kill(self) -> None:
        if self.alive:
            self.signal(signal.SIGKILL)
            until(lambda: not self.alive, "the end of a killed worker")


class Service:
    """Broker and gateway that live through a session; workers that live through a test."""

    def __init__(self, directory: Path, model: Path) -> None:
        self._directory = directory
        self._model = model
        self._broker = EmbeddedBroker(directory / "broker", port=0)
        self._broker.start()
        port = int(self._broker.url.rpartition(":")[2])
        self._broker.stop()
        # The same port at each start: processes find it again.
        self._broker = EmbeddedBroker(directory / "broker", port=port)
        self._broker.start()
        self.broker_url = self._broker.url
        self.redis = redis.Redis.from_url(self.broker_url)
        self._nursery = subprocess.Popen(
            [sys.executable, HERE / "nursery.py", model],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        self.address, self._gateway = self._start_gateway()
        assert self._nursery.stdout.readline() == "ready\n"
        self._workers: list[WorkerProcess] = []
        self._serial = 0

    def close(self) -> None:
        self.end_workers()
        self._nursery.stdin.close()
        self._nursery.wait(10)
        self._nursery.stdout.close()
        self._gateway.kill()
        self._gateway.wait()
        self._gateway.stdout.close()
        self.redis.close()
        self._broker.stop()

    def restart_gateway(self) -> None:
        """Kill it and start another one in its place."""
        self._gateway.kill()
        self._gateway.wait()
        self._gateway.stdout.close()
        self.address, self._gateway = self._start_gateway(self.address)

    def _start_gateway(self, listen: str = "127.0.0.1:0") -> tuple[str, subprocess.Popen[str]]:
        log = (self._directory / "gateway.log").open("a")
        gateway = subprocess.Popen(
            [sys.executable, "-m", "xlmstream_server", "--broker", self.broker_url, "--listen", listen],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        log.close()
        line = gateway.stdout.readline()
        assert "ready on " in line, (self._directory / "gateway.log").read_text()
        return line.rpartition(" ")[2].strip(), gateway

    # Workers

    def worker(
        self,
        *flags: str,
        lease_s: float = 2.0,
        slots: int = 32,
        step_ms: float = 0,
        poison: str | None = None,
        defect: str | None = None,
        hang_after: int = 0,
    ) -> WorkerProcess:
        """Start a worker; returns when it serves. `nursery` tells what the last four mean."""
        self._serial += 1
        log = self._directory / f"worker-{self._serial}.log"
        log.touch()
        arguments = ["--broker", self.broker_url, "--lease-s", str(lease_s), "--slots", str(slots), "--threads", "1"]
        arguments += ["--log-format", "json", "--log-level", "debug", *flags, f"toy={self._model}"]
        order = {"arguments": arguments, "log": str(log), "step_ms": step_ms}
        order |= {"poison": poison, "defect": defect, "hang_after": hang_after}
        self._nursery.stdin.write(json.dumps(order) + "\n")
        self._nursery.stdin.flush()
        worker = WorkerProcess(int(self._nursery.stdout.readline()), log)
        self._workers.append(worker)
        until(lambda: worker.told("ready") or not worker.alive, "a worker's start")
        assert worker.alive, worker.log()
        return worker

    def end_workers(self) -> None:
        for worker in self._workers:
            worker.kill()
        self._workers.clear()

    # Broker

    def kill_broker(self) -> None:
        os.kill(self._broker.pid, signal.SIGKILL)

    def stop_broker(self) -> None:
        self._broker.stop()

    def start_broker(self) -> None:
        """Start it again with what it had."""
        self._broker.stop()
        self._broker.start()

    def wait_serving(self, model: str = "toy") -> None:
        """Until the gateway says that the model is served."""
        with grpc.insecure_channel(self.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            watch = stub.Watch(health_pb2.HealthCheckRequest(service=f"model/{model}"), timeout=PATIENCE_S)
            for answer in watch:
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    watch.cancel()
                    return

    def wait_clean(self) -> None:
        """Until no request waits or runs any more, going by what the broker holds."""

        def left() -> dict[bytes, int]:
            lanes = {key: self.redis.xlen(key) for key in self.redis.scan_iter("xs:{0}:lane:*")}
            return {key: entries for key, entries in lanes.items() if entries}

        until(lambda: not left(), "an empty queue")
        assert not self.redis.hgetall("xs:{0}:adm")
