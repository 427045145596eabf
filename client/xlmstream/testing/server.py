"""The fake service as users hold it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

import grpc

from xlmstream.testing.job_service import JobService
from xlmstream.testing.script import Answer
from xlmstream.testing.services import InferenceService, ModelService, ServerService
from xlmstream.testing.stage import Stage
from xlmstream.v1.inference_pb2_grpc import add_InferenceServiceServicer_to_server
from xlmstream.v1.jobs_pb2_grpc import add_JobServiceServicer_to_server
from xlmstream.v1.models_pb2_grpc import add_ModelServiceServicer_to_server
from xlmstream.v1.server_pb2_grpc import add_ServerServiceServicer_to_server


class FakeServer(Stage):
    """An xlmstream service whose answers you write; use it as a context manager.

    `requests` holds every request received, in order of arrival; `open_streams` counts the streams of generation,
    results and states being served; `window` is the credit that an InferStream begins with; `models` is what the model
    service lists (call `notify` after a change); `jobs` holds every job by its name, its `info` telling how it stands;
    `changed` is a condition notified at every request, begin and end of a stream, and change: wait on it, with a
    timeout, instead of sleeping.
    """

    def __init__(
        self,
        answers: Mapping[str, Answer] | Callable[[str], Answer] | None = None,
        *,
        coalesce: Sequence[int] = (1,),
        port: int = 0,
    ) -> None:
        """
        answers: what follows each prompt and translates each text, as a mapping or a function; without it every one is
            repeated. A Failure also meets the inputs of other tasks whose first text is the prompt; their results are
            made of the input.
        coalesce: how many events each stream message joins, taken in turn again and again; 0 stands for a heartbeat.
        port: where to listen; 0 takes a free one.
        """
        super().__init__(answers, coalesce)
        self.address = ""
        """ "127.0.0.1:PORT", once started."""
        self._port = port
        self._server: grpc.Server | None = None

    def __enter__(self) -> Self:
        # Port reuse would let two fakes share a port; keepalive pings are as welcome as at the real service.
        options = [("grpc.so_reuseport", 0), ("grpc.http2.min_ping_interval_without_data_ms", 5_000)]
        self._server = grpc.server(ThreadPoolExecutor(max_workers=64), options=options)
        add_InferenceServiceServicer_to_server(InferenceService(self), self._server)
        add_JobServiceServicer_to_server(JobService(self), self._server)
        add_ModelServiceServicer_to_server(ModelService(self), self._server)
        add_ServerServiceServicer_to_server(ServerService(self), self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port(f'127.0.0.1:{self._port}')}"
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.stop(grace=None).wait()
            self._server = None
