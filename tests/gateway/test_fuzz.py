"""Whatever bytes arrive, the answer is a result or one of our own errors, never INTERNAL or UNKNOWN."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import grpc
import pytest
from effort import examples
from gateway.scripted_worker import ScriptedWorker, card
from google.rpc.status_pb2 import Status
from hypothesis import given, settings
from hypothesis import strategies as st
from xlmstream.v1 import inference_pb2 as pb
from xlmstream.v1 import jobs_pb2
from xlmstream.v1.common_pb2 import RequestOptions, Task, TextInput, TokenIds
from xlmstream.v1.embedding_pb2 import EmbedParameters
from xlmstream.v1.generation_pb2 import GenerationParameters
from xlmstream.v1.job_pb2 import JobFailurePolicy, JobItem, JobTask
from xlmstream.v1.translation_pb2 import TranslateRequest, TranslateStreamRequest
from xlmstream_server import errors
from xlmstream_server.config import GatewayConfig, Limits
from xlmstream_server.gateway import serve

Code = grpc.StatusCode
EMBED = JobTask(embed=EmbedParameters())
DEFECTS = {Code.INTERNAL, Code.UNKNOWN, Code.ABORTED, Code.DEADLINE_EXCEEDED}

texts = st.text(max_size=40)
uint32 = st.integers(0, 2**32 - 1)
enums = st.integers(-5, 20)
floats = st.floats(width=32)
options = st.builds(
    RequestOptions,
    request_id=st.one_of(st.just(""), texts, st.text("abc.:-_09", min_size=1)),
    model=st.one_of(st.just(""), st.just("toy"), st.just("toy@1"), texts),
    priority=enums,
    truncation=enums,
    disconnect_policy=enums,
)
ids = st.builds(TokenIds, ids=st.lists(st.one_of(st.integers(0, 999), uint32), max_size=20))
languages = st.one_of(st.none(), st.just("en"), texts)
inputs = st.one_of(
    st.builds(TextInput, text=texts, language=languages, allow_special_tokens=st.booleans()),
    st.builds(TextInput, token_ids=ids, language=languages),
    st.builds(TextInput),
)
maybe = lambda strategy: st.one_of(st.none(), strategy)  # noqa: E731  # unset is a value of its own
parameters = st.builds(
    GenerationParameters,
    max_new_tokens=maybe(st.one_of(st.integers(0, 4), uint32)),
    min_new_tokens=maybe(st.one_of(st.integers(0, 4), uint32)),
    temperature=maybe(floats),
    top_k=maybe(uint32),
    top_p=maybe(floats),
    seed=maybe(st.integers(0, 2**64 - 1)),
    stop=st.lists(texts, max_size=3),
    ignore_eos=maybe(st.booleans()),
)
job_ids = st.one_of(st.just("fuzzed"), st.just(""), texts)
job_items = st.builds(JobItem, key=texts, embed=maybe(inputs))
requests = {
    "Generate": st.builds(
        pb.GenerateRequest, options=options, inputs=st.lists(inputs, max_size=4), parameters=parameters
    ),
    "GenerateStream": st.builds(pb.GenerateStreamRequest, options=options, input=inputs, parameters=parameters),
    "Translate": st.builds(
        TranslateRequest,
        options=options,
        inputs=st.lists(inputs, max_size=4),
        target_language=st.sampled_from(["", "fr", "en", "xx"]),
        parameters=parameters,
    ),
    "TranslateStream": st.builds(
        TranslateStreamRequest,
        options=options,
        input=inputs,
        target_language=st.sampled_from(["", "fr", "en", "xx"]),
        parameters=parameters,
    ),
    "Tokenize": st.builds(pb.TokenizeRequest, options=options, inputs=st.lists(inputs, max_size=4)),
    "Detokenize": st.builds(pb.DetokenizeRequest, options=options, inputs=st.lists(ids, max_size=4)),
    "ResumeStream": st.builds(pb.ResumeStreamRequest, resume_token=texts, next_event=st.integers(0, 2**64 - 1)),
    "CancelRequest": st.one_of(
        st.builds(pb.CancelRequestRequest, request_id=texts), st.builds(pb.CancelRequestRequest, execution_id=texts)
    ),
    "CreateJob": st.builds(
        jobs_pb2.CreateJobRequest,
        request_id=texts,
        job_id=job_ids,
        model=st.one_of(st.just("toy"), texts),
        task=st.one_of(st.just(EMBED), st.builds(JobTask, generate=parameters), st.builds(JobTask)),
        truncation=enums,
        labels=st.dictionaries(texts, texts, max_size=3),
        ttl_s=maybe(uint32),
        retention_s=maybe(uint32),
        max_attempts=maybe(uint32),
        failure_policy=st.builds(JobFailurePolicy, max_failed_items=maybe(st.integers(0, 2**64 - 1))),
        items=st.lists(job_items, max_size=3),
    ),
    "SealJob": st.builds(jobs_pb2.SealJobRequest, job_id=job_ids, expected_items=maybe(st.integers(0, 2**64 - 1))),
    "ListJobs": st.builds(
        jobs_pb2.ListJobsRequest,
        page_size=uint32,
        page_token=texts,
        states=st.lists(enums, max_size=3),
        labels=st.dictionaries(texts, texts, max_size=2),
    ),
    "ListJobResults": st.builds(
        jobs_pb2.ListJobResultsRequest, job_id=job_ids, page_size=uint32, page_token=texts, order=enums, filter=enums
    ),
}
uploads = st.lists(
    st.one_of(
        st.builds(
            jobs_pb2.UploadJobItemsRequest,
            header=st.builds(jobs_pb2.UploadHeader, job_id=st.just("fuzzed"), seal=st.booleans()),
        ),
        st.builds(
            jobs_pb2.UploadJobItemsRequest,
            chunk=st.builds(
                jobs_pb2.UploadChunk,
                first_index=st.one_of(st.integers(0, 3), st.integers(0, 2**64 - 1)),
                items=st.lists(
                    st.one_of(job_items.map(lambda item: item.SerializeToString()), st.binary(max_size=30)), max_size=4
                ),
                crc32c=st.one_of(st.none(), st.none(), uint32),
            ),
        ),
    ).map(lambda message: message.SerializeToString())
    | st.binary(max_size=30),
    max_size=4,
)


class Caller:
    """Calls a gateway from outside its event loop, with raw bytes."""

    def __init__(self, loop: asyncio.AbstractEventLoop, channel: grpc.aio.Channel) -> None:
        self._loop = loop
        self._channel = channel

    def code(self, method: str, data: bytes) -> Code:
        return self._loop.run_until_complete(self._code(method, data))

    async def _code(self, method: str, data: bytes) -> Code:
        service = "JobService" if "Job" in method else "InferenceService"
        call = self._channel.unary_stream(f"/xlmstream.v1.{service}/{method}")(data, timeout=10)
        answers = []
        while isinstance(answer := await self._next(call), bytes):
            answers.append(answer)
        if method == "Generate":
            outputs = [output for each in answers for output in pb.GenerateResponse.FromString(each).outputs]
            reasons = {errors.reason_of(output.error) for output in outputs if output.HasField("error")}
            assert reasons <= {"INVALID_INPUT", "INPUT_TOO_LONG"}
        return await call.code()

    def upload(self, messages: list[bytes]) -> Code:
        """The code that an upload of these messages ends with."""
        return self._loop.run_until_complete(self._upload(messages))

    async def _upload(self, messages: list[bytes]) -> Code:
        call = self._channel.stream_unary("/xlmstream.v1.JobService/UploadJobItems")(iter(messages), timeout=10)
        try:
            await call
        except grpc.aio.AioRpcError as failed:
            check_details(failed)
        return await call.code()

    async def _next(self, call: grpc.aio.UnaryStreamCall) -> object:
        """The next message; None at the end, a failure being one that carries our details."""
        try:
            answer = await call.read()
        except grpc.aio.AioRpcError as failed:
            return check_details(failed)
        return None if answer is grpc.aio.EOF else answer


def check_details(failed: grpc.aio.AioRpcError) -> None:
    trailers = dict(failed.trailing_metadata())
    assert "grpc-status-details-bin" in trailers, failed
    assert errors.reason_of(Status.FromString(trailers["grpc-status-details-bin"]))


@pytest.fixture(scope="module")
def caller(broker_server_url: str) -> Iterator[Caller]:
    with (
        asyncio.Runner() as runner,
        ScriptedWorker(
            broker_server_url, step_s=0.0005, models=[card(tasks=[*card().tasks, Task.TASK_TRANSLATE])]
        ) as worker,
    ):
        config = GatewayConfig(listen="127.0.0.1:0", broker=broker_server_url, limits=Limits(max_new_tokens=64))
        serving = serve(config)
        gateway = runner.run(serving.__aenter__())
        channel = grpc.aio.insecure_channel(gateway.address)
        yield Caller(runner.get_loop(), channel)
        runner.run(channel.close())
        runner.run(serving.__aexit__(None, None, None))
        assert worker is not None


modest = settings(max_examples=examples(80))


@pytest.mark.parametrize("method", requests)
@modest
@given(data=st.data())
def test_any_message(caller: Caller, method: str, data: st.DataObject) -> None:
    request = data.draw(requests[method])
    assert caller.code(method, request.SerializeToString()) not in DEFECTS


@pytest.mark.parametrize("method", requests)
@modest
@given(data=st.data())
def test_any_bytes(caller: Caller, method: str, data: st.DataObject) -> None:
    """Half of them a message that was damaged in one place."""
    raw = data.draw(
        st.one_of(st.binary(max_size=60), requests[method].map(lambda message: message.SerializeToString()))
    )
    if raw and data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw = raw[:place] + bytes([data.draw(st.integers(0, 255))]) + raw[place + 1 :]
    assert caller.code(method, raw) not in DEFECTS


@modest
@given(messages=uploads)
def test_any_upload(caller: Caller, messages: list[bytes]) -> None:
    made = jobs_pb2.CreateJobRequest(job_id="fuzzed", task=EMBED)
    assert caller.code("CreateJob", made.SerializeToString()) not in DEFECTS
    assert caller.upload(messages) not in DEFECTS
