"""Faults, injected into real processes: nothing is lost, nothing comes twice, and nobody else notices."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING

import grpc
import pytest
from e2e.service import Service, until, until_async
from e2e.solo import Solo
from e2e.streams import Reading, request, with_options
from xlmstream.v1.common_pb2 import DISCONNECT_POLICY_DETACH
from xlmstream.v1.inference_pb2 import CancelRequestRequest, ResumeStreamRequest

if TYPE_CHECKING:
    from xlmstream.v1.inference_pb2_grpc import InferenceServiceAsyncStub

STREAMS, TOKENS = 64, 60
WORDS = ["the", "and", "in", "lord", "abc", "日", "é", "x"]
PROMPTS = [f"{first} {second}" for first in WORDS for second in WORDS]


def reason(error: grpc.aio.AioRpcError) -> str:
    from google.rpc.error_details_pb2 import ErrorInfo
    from grpc_status import rpc_status

    info = ErrorInfo()
    rpc_status.from_call(error).details[0].Unpack(info)
    return info.reason


async def test_killing_one_of_two_workers_half_way_loses_and_repeats_nothing(
    service: Service, stub: InferenceServiceAsyncStub, solo: Solo
) -> None:
    lease_s = 2.0
    doomed = service.worker(lease_s=lease_s, step_ms=15)
    service.worker(lease_s=lease_s, step_ms=15)
    service.wait_serving()
    readings = [Reading() for _ in range(STREAMS)]
    killed = False

    def kill_half_way(_: Reading) -> None:
        nonlocal killed
        if not killed and sum(len(reading.ids) for reading in readings) >= STREAMS * TOKENS // 2:
            killed = True
            doomed.signal(signal.SIGKILL)

    async with asyncio.TaskGroup() as group:
        for reading, prompt in zip(readings, PROMPTS, strict=True):
            group.create_task(reading.read(stub.GenerateStream(request(prompt, TOKENS)), kill_half_way))
    assert killed
    assert not doomed.alive
    assert doomed.log().count('"event": "ended"') < STREAMS // 2
    assert [len(reading.ids) for reading in readings] == [TOKENS] * STREAMS
    for reading, prompt in zip(readings, PROMPTS, strict=True):
        solo.check(prompt, reading.ids)
        assert reading.text == solo.text(reading.ids)
    longest_s = max(reading.longest_pause_s for reading in readings)
    assert lease_s / 2 < longest_s <= 1.5 * lease_s
    service.wait_clean()
