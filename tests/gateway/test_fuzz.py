"""Whatever bytes arrive, the answer is a result or one of our own errors, never INTERNAL or UNKNOWN."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import grpc
import pytest
from effort import examples
from gateway.scripted_worker import ScriptedWorker
from google.rpc.status_pb2 import Status
from hypothesis import given, settings
from hypothesis import strategies as st
from xlmstream.v1 import inference_pb2 as pb
from xlmstream.v1.common_pb2 import RequestOptions, TextInput, TokenIds
from xlmstream.v1.generation_pb2 import GenerationParameters
from xlmstream_server import errors
from xlmstream_server.config import GatewayConfig, Limits
from xlmstream_server.gateway import serve

Code = grpc.StatusCode
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
requests = {
    "Generate": st.builds(
        pb.GenerateRequest, options=options, inputs=st.lists(inputs, max_size=4), parameters=parameters
    ),
    "GenerateStream": st.builds(pb.GenerateStreamRequest, options=options, input=inputs, parameters=parameters),
    "Tokenize": st.builds(pb.TokenizeRequest, options=options, inputs=st.lists(inputs, max_size=4)),
    "Detokenize": st.builds(pb.DetokenizeRequest, options=options, inputs=st.lists(ids, max_size=4)),
    "ResumeStream": st.builds(pb.ResumeStreamRequest, resume_token=texts, next_event=st.integers(0, 2**64 - 1)),
    "CancelRequest": st.one_of(
        st.builds(pb.CancelRequestRequest, request_id=texts), st.builds(pb.CancelRequestRequest, execution_id=texts)
    ),
}


class Caller:
    """Calls a gateway from outside its event loop, with raw bytes."""

    def __init__(self, loop: asyncio.AbstractEventLoop, channel: grpc.aio.Channel) -> None:
        self._loop = loop
        self._channel = channel

    def code(self, method: str, data: bytes) -> Code:
        return self._loop.run_until_complete(self._code(method, data))

    async def _code(self, method: str, data: bytes) -> Code:
        call = self._channel.unary_stream(f"/xlmstream.v1.InferenceService/{method}")(data, timeout=10)
        answers = []
        while isinstance(answer := await self._next(call), bytes):
            answers.append(answer)
        if method == "Generate":
            outputs = [output for each in answers for output in pb.GenerateResponse.FromString(each).outputs]
            reasons = {errors.reason_of(output.error) for output in outputs if output.HasField("error")}
            assert reasons <= {"INVALID_INPUT", "INPUT_TOO_LONG"}
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
    with asyncio.Runner() as runner, ScriptedWorker(broker_server_url, step_s=0.0005) as worker:
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
