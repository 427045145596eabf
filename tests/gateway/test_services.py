"""Models, load, server information, health, reflection, metrics, logs, and the process."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import signal
import subprocess
import sys
import urllib.request
from dataclasses import replace

import grpc.aio
import pytest
from gateway.conftest import ServeGateway, Service
from gateway.helpers import Read, generate_request, reason, status_of, stream_request
from gateway.scripted_worker import SLOTS, ScriptedWorker, card
from google.rpc.code_pb2 import Code
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub
from xlmstream.v1 import models_pb2, server_pb2
from xlmstream.v1.common_pb2 import Task
from xlmstream.v1.models_pb2 import MODEL_STATE_READY, MODEL_STATE_UNAVAILABLE
from xlmstream.version import __version__
from xlmstream_server.broker import Registered
from xlmstream_server.broker.v1.messages_pb2 import ServedModel, WorkerCard
from xlmstream_server.catalogue import Catalogue
from xlmstream_server.config import GatewayConfig, Observe
from xlmstream_server.errors import ServiceError
from xlmstream_server.observe.logs import CURRENT_CALL, CallScope, ContextFilter, JsonFormatter, TextFormatter

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


def registered(*cards: models_pb2.Model, alive: bool = True, slots: int = 4, busy: int = 1) -> Registered:
    models = [ServedModel(model=each, bytes_per_token=4, slots=slots, busy_slots=busy) for each in cards]
    return Registered(WorkerCard(worker="w:1", models=models), alive)


async def test_models(service: Service) -> None:
    [model] = (await service.models.ListModels(models_pb2.ListModelsRequest())).models
    assert (model.name, model.version, model.state, model.workers) == ("toy", "1", MODEL_STATE_READY, 1)
    assert list(model.languages) == ["en", "fr", "de"]
    for name in ("toy", "toy@1"):
        assert (await service.models.GetModel(models_pb2.GetModelRequest(name=name))).model == model
    status = await status_of(service.models.GetModel(models_pb2.GetModelRequest(name="x")))
    assert (status.code, reason(status)) == (Code.NOT_FOUND, "MODEL_NOT_FOUND")
    status = await status_of(service.models.GetModel(models_pb2.GetModelRequest()))
    assert (status.code, reason(status)) == (Code.INVALID_ARGUMENT, "INVALID_INPUT")


async def test_watchers_are_told_of_every_change_and_of_the_end(serve_gateway: ServeGateway, broker_url: str) -> None:
    async with serve_gateway() as service:
        watch = service.models.WatchModels(models_pb2.WatchModelsRequest())
        health = HealthStub(service.channel)
        first, second = (health.Watch(HealthCheckRequest(service="model/toy")) for _ in range(2))
        assert not (await watch.read()).models
        for each in (first, second):
            assert (await each.read()).status == HealthCheckResponse.SERVICE_UNKNOWN
        service.gateway.catalogue.update([registered(card())])
        assert (await watch.read()).models[0].state == MODEL_STATE_READY
        assert (await first.read()).status == SERVING
        first.cancel()  # the other one must not be stranded
        service.gateway.catalogue.update([registered(card(), alive=False)])
        assert (await watch.read()).models[0].state == MODEL_STATE_UNAVAILABLE
        assert [(await second.read()).status for _ in range(2)] == [SERVING, NOT_SERVING]
        draining = asyncio.ensure_future(service.gateway.drain(1.0))
        assert reason(await status_of(watch)) == "DRAINING"
        await draining


def test_versions_are_merged_and_ordered(broker_url: str) -> None:
    class Up:
        up = True

    catalogue = Catalogue(Up())  # type: ignore[arg-type]  # asks nothing else of it here
    both, old = [card("toy", "9"), card("toy", "10")], card("toy", "9")
    catalogue.update([registered(*both), registered(old, slots=2, busy=2), registered(card("b", "1"), alive=False)])
    assert [model.full_name for model in catalogue.models] == ["b@1", "toy@10", "toy@9"]
    assert [(model.card.workers, model.slots, model.busy_slots) for model in catalogue.models] == [
        (0, 0, 0),
        (1, 4, 1),
        (2, 6, 3),
    ]
    assert catalogue.find("toy").full_name == "toy@10"
    seen = catalogue.changed.count
    catalogue.update([registered(*both), registered(old), registered(card("b", "1"), alive=False)])
    assert catalogue.changed.count == seen  # only slots differ
    catalogue.update([registered(old), registered(card("toy", "10"), alive=False)])
    assert catalogue.changed.count == seen + 1
    assert catalogue.find("toy").full_name == "toy@9"  # the newest that can be called


def test_a_longer_version_is_newer_than_its_beginning() -> None:
    class Up:
        up = True

    catalogue = Catalogue(Up())  # type: ignore[arg-type]  # asks nothing else of it here
    versions = ["1", "1.1", "1.10", "1.9", "v2", "v2.0.1", "v10"]
    catalogue.update([registered(*(card("toy", version) for version in versions))])
    newest_first = ["v10", "v2.0.1", "v2", "1.10", "1.9", "1.1", "1"]
    assert {model.card.version for model in catalogue.models} == set(versions)
    ordered = [model.card.version for model in catalogue.models]
    assert [version for version in ordered if version[0] == "v"] == newest_first[:3]
    assert [version for version in ordered if version[0] == "1"] == newest_first[3:]


def test_a_request_without_a_model_means_the_one_with_workers() -> None:
    class Up:
        up = True

    catalogue = Catalogue(Up())  # type: ignore[arg-type]  # asks nothing else of it here
    task = Task.TASK_GENERATE
    gone = registered(card("old", "1"), card("older", "1"), alive=False)
    catalogue.update([gone, registered(card("toy", "9"))])
    assert catalogue.serving("", task).full_name == "toy@9"
    catalogue.update([gone, registered(card("toy", "9")), registered(card("b", "1"))])
    with pytest.raises(ServiceError, match=r"several models are served; name one: b@1, toy@9$"):
        catalogue.serving("", task)
    catalogue.update([registered(card("old", "1"), alive=False)])
    with pytest.raises(ServiceError, match="no worker serves model 'old@1' now"):
        catalogue.serving("", task)


async def test_server_info(service: Service) -> None:
    info = await service.server.GetServerInfo(server_pb2.GetServerInfoRequest())
    assert info.version == __version__
    assert info.gateway_id
    limits = info.limits
    assert (limits.max_inputs, limits.max_new_tokens, limits.default_deadline_s, limits.max_deadline_s) == (
        256,
        2048,
        600,
        3600,
    )


async def test_load(serve_gateway: ServeGateway, worker: ScriptedWorker) -> None:
    worker.takes = False
    async with serve_gateway() as service:
        [idle] = (await service.server.GetLoad(server_pb2.GetLoadRequest())).models
        assert (idle.model, idle.queued_requests, idle.workers, idle.free_slots) == ("toy@1", 0, 1, SLOTS)
        calls = [service.inference.GenerateStream(stream_request("abcd " * 20, 10)) for _ in range(3)]
        for call in calls:
            await call.initial_metadata()
        async with asyncio.timeout(10):
            while True:  # the broker counts in milliseconds: the first of them may not have passed yet
                [busy] = (await service.server.GetLoad(server_pb2.GetLoadRequest(model="toy"))).models
                assert busy.queued_requests == 3
                assert busy.queued_tokens == 3 * (27 + 10)  # 100 bytes at 4 a token, 2 special ones, 10 new ones
                if busy.oldest_wait_s > 0:
                    break
        for call in calls:
            call.cancel()
        status = await status_of(service.server.GetLoad(server_pb2.GetLoadRequest(model="x")))
        assert reason(status) == "MODEL_NOT_FOUND"


async def test_health(service: Service) -> None:
    health = HealthStub(service.channel)
    for name in ("", "xlmstream.v1.InferenceService", "xlmstream.v1.ModelService", "model/toy"):
        assert (await health.Check(HealthCheckRequest(service=name))).status == SERVING
    for name in ("x", "model/x", "model/", "toy"):
        assert (await status_of(health.Check(HealthCheckRequest(service=name)))).code == Code.NOT_FOUND


async def test_reflection_only_for_developers(serve_gateway: ServeGateway, quick_config: GatewayConfig) -> None:
    async def listed(service: Service) -> set[str]:
        call = ServerReflectionStub(service.channel).ServerReflectionInfo()
        await call.write(ServerReflectionRequest(list_services=""))
        await call.done_writing()
        return {each.name for each in (await call.read()).list_services_response.service}

    async def damaged(service: Service) -> str:
        call = service.channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")()
        await call.write(b"\x0a\x02\xff\xfe")
        return reason(await status_of(call))

    async with serve_gateway(replace(quick_config, dev=True)) as service:
        assert {"xlmstream.v1.InferenceService", "grpc.health.v1.Health"} < await listed(service)
        assert await damaged(service) == "INVALID_INPUT"
    async with serve_gateway() as service:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await listed(service)
        assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_metrics(service: Service) -> None:
    await Read().all(service.inference.GenerateStream(stream_request("a", 20)))
    await status_of(service.inference.Generate(generate_request()))
    with service.gateway.metrics.served("127.0.0.1", 0) as port:
        address = f"http://127.0.0.1:{port}/metrics"
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(address, timeout=5).read().decode())
    for line in (
        'xlmstream_calls_total{code="OK",method="GenerateStream"} 1.0',
        'xlmstream_calls_total{code="INVALID_ARGUMENT",method="Generate"} 1.0',
        'xlmstream_open_calls{method="GenerateStream"} 0.0',
        'xlmstream_executions_total{outcome="accepted"} 1.0',
        "xlmstream_events_received_total 23.0",
        "xlmstream_open_executions 0.0",
        "xlmstream_broker_up 1.0",
    ):
        assert line in text


def test_log_lines_name_call_and_execution() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(ContextFilter())
    logger = logging.Logger("test")
    logger.addHandler(handler)
    token = CURRENT_CALL.set(CallScope("Generate", "00abc"))
    try:
        for formatter in (JsonFormatter(), TextFormatter()):
            handler.setFormatter(formatter)
            try:
                raise ValueError("cause")
            except ValueError:
                logger.exception("it failed: %s", "\u2603\n", extra={"code": "INTERNAL"})
    finally:
        CURRENT_CALL.reset(token)
    first, _, rest = stream.getvalue().partition("\n")
    entry = json.loads(first)
    assert (entry["method"], entry["execution_id"], entry["code"]) == ("Generate", "00abc", "INTERNAL")
    assert entry["message"] == "it failed: \u2603\n"
    assert entry["traceback"].endswith("ValueError")
    assert "method=Generate" in rest


async def test_logs_hold_neither_texts_nor_tokens(
    service: Service, caplog: pytest.LogCaptureFixture, worker: ScriptedWorker
) -> None:
    with caplog.at_level(logging.DEBUG, logger="xlmstream_server"):
        read = await Read().all(service.inference.GenerateStream(stream_request("confidential", 3)))
        await status_of(service.inference.GenerateStream(stream_request("fail confidential", 3)))
        await status_of(service.inference.GenerateStream(stream_request("long confidential", 3)))
        request = stream_request("a")
        request.input.language = "confidential"
        await status_of(service.inference.GenerateStream(request))
    text = "\n".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records)
    assert "GenerateStream" in text
    assert "confidential" not in text
    assert read.resume_token.partition(".")[2] not in text


def run_server(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "xlmstream_server", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


def test_the_process_refuses_wrong_settings_and_says_why(broker_url: str) -> None:
    wrong = run_server("--max-inputs", "0")
    assert (wrong.returncode, wrong.stderr) == (
        2,
        "xlmstream-server: max_inputs: 0 is out of range: 1 to 65536\n",
    )
    assert run_server(XLMSTREAM_SERVER_NOPE="1").returncode == 2
    away = run_server("--broker", "redis://user:hidden@127.0.0.1:1/0", "--listen", "127.0.0.1:0")
    assert away.returncode == 1
    assert "cannot start" in away.stderr
    assert "hidden" not in away.stderr
    assert "Traceback" not in away.stderr
    taken = run_server("--broker", broker_url, "--listen", "256.0.0.1:1")
    assert taken.returncode == 1
    assert "cannot listen on 256.0.0.1:1" in taken.stderr


def test_the_process_serves_metrics_and_ends_at_a_signal(broker_url: str) -> None:
    arguments = ["--broker", broker_url, "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]
    with subprocess.Popen(
        [sys.executable, "-m", "xlmstream_server", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("xlmstream-server ready on 127.0.0.1:")
        process.send_signal(signal.SIGINT)
        _, logs = process.communicate(timeout=20)
    assert process.returncode == 0
    assert all(json.loads(line)["level"] == "info" for line in logs.splitlines())


def test_observe_is_off_and_local_by_default() -> None:
    assert Observe().metrics == ""
