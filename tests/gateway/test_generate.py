"""Generate, Tokenize and Detokenize, and streams of known tokens: gateway, broker, scripted worker."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import pytest
from gateway.conftest import Service
from gateway.helpers import Read, fields, generate_request, reason, status_of, stream_request
from gateway.scripted_worker import ScriptedWorker, expected_ids, text_of
from google.rpc.code_pb2 import Code
from xlmstream.v1 import inference_pb2 as pb
from xlmstream.v1.common_pb2 import FINISH_REASON_LENGTH, TextInput, TokenIds
from xlmstream_server import errors


async def test_a_stream_brings_every_token_once_and_says_what_it_cost(service: Service) -> None:
    call = service.inference.GenerateStream(stream_request("one two", 10))
    messages = [message.event async for message in call]
    read = Read()
    for message in messages:
        read.take(message)
    started, finished = messages[0].started, messages[-1].finished
    assert (started.parameters.max_new_tokens, started.prompt_tokens, started.model) == (10, 2, "toy@1")
    assert dict(await call.initial_metadata())["x-execution-id"] == started.execution_id
    assert started.resume_token.startswith(started.execution_id + ".")
    assert len(started.resume_token) - len(started.execution_id) >= 24
    assert (read.ids, read.text) == (expected_ids("one two", 10), text_of(expected_ids("one two", 10)))
    assert read.next_event == 1 + 10 + 2
    assert messages[-2].candidate_finished.finish_reason == FINISH_REASON_LENGTH
    assert (finished.usage.prompt_tokens, finished.usage.completion_tokens) == (2, 10)
    assert finished.timing.worker_id == "w1"
    assert finished.timing.total_us > 0


async def test_64_streams_at_once(service: Service) -> None:
    reads = await asyncio.gather(
        *(Read().all(service.inference.GenerateStream(stream_request(f"prompt {i}", 60))) for i in range(64))
    )
    for i, read in enumerate(reads):
        assert read.ids == expected_ids(f"prompt {i}", 60)
        assert read.finished


async def test_generate_answers_each_input_in_order_and_a_bad_one_harms_no_other(service: Service) -> None:
    request = generate_request("a", " ", "fail b", "long c", "d")
    request.inputs.add(token_ids=TokenIds(ids=[1, 5000]))
    response = await service.inference.Generate(request)
    outcomes = [output.WhichOneof("outcome") for output in response.outputs]
    assert outcomes == ["result", "error", "error", "error", "result", "error"]
    for position, prompt in ((0, "a"), (4, "d")):
        result = response.outputs[position].result
        [candidate] = result.candidates
        assert list(candidate.token_ids) == expected_ids(prompt, 10)
        assert candidate.text == text_of(expected_ids(prompt, 10))
        assert candidate.finish_reason == FINISH_REASON_LENGTH
        assert result.parameters.max_new_tokens == 10
        assert result.usage.completion_tokens == 10
        assert result.timing.worker_id == "w1"
    assert fields(response.outputs[1].error) == ["inputs[1].text"]
    assert reason(response.outputs[2].error) == "INTERNAL"
    assert (reason(response.outputs[3].error), fields(response.outputs[3].error)) == (
        "INPUT_TOO_LONG",
        ["inputs[3].text"],
    )
    assert fields(response.outputs[5].error) == ["inputs[5].token_ids.ids[1]"]


async def test_generate_with_nothing_but_bad_inputs_still_answers_each(
    service: Service, worker: ScriptedWorker
) -> None:
    response = await service.inference.Generate(generate_request("", "  "))
    assert [fields(output.error) for output in response.outputs] == [["inputs[0].text"], ["inputs[1].text"]]
    assert not worker.started


async def test_more_inputs_than_the_worker_has_slots(service: Service) -> None:
    prompts = [f"p{i}" for i in range(200)]
    response = await service.inference.Generate(generate_request(*prompts, tokens=3))
    assert [list(o.result.candidates[0].token_ids) for o in response.outputs] == [expected_ids(p, 3) for p in prompts]


async def test_generate_names_its_execution(service: Service) -> None:
    call = service.inference.Generate(generate_request("a"))
    await call
    assert len(dict(await call.trailing_metadata())["x-execution-id"]) == 28


async def test_tokenize_and_detokenize(service: Service) -> None:
    inputs = [
        TextInput(text="ein Haus"),
        TextInput(text=""),
        TextInput(text="x"),
        TextInput(token_ids=TokenIds(ids=[1])),
    ]
    tokenized = await service.inference.Tokenize(pb.TokenizeRequest(inputs=inputs))
    assert [output.WhichOneof("outcome") for output in tokenized.outputs] == ["result", "error", "result", "error"]
    first, second = tokenized.outputs[0].result.tokens
    assert ((first.piece, first.start, first.end), (second.piece, second.start, second.end)) == (
        ("ein</w>", 0, 3),
        ("Haus</w>", 4, 8),
    )
    assert fields(tokenized.outputs[3].error) == ["inputs[3].token_ids"]
    assert tokenized.timing.worker_id == "w1"
    detokenized = await service.inference.Detokenize(
        pb.DetokenizeRequest(inputs=[TokenIds(ids=[1, 2]), TokenIds(), TokenIds(ids=[1000]), TokenIds(ids=[7])])
    )
    assert [output.WhichOneof("outcome") for output in detokenized.outputs] == ["result", "error", "error", "result"]
    assert [detokenized.outputs[i].result.text for i in (0, 3)] == [" w1 w2", " w7"]
    assert fields(detokenized.outputs[2].error) == ["inputs[2].ids[0]"]
    assert detokenized.timing.worker_id == "w1"


async def test_a_worker_s_error_names_the_input_as_the_caller_counts(service: Service) -> None:
    inputs = [TextInput(text=text) for text in ("", "a", "refuse", " ", "refuse")]
    response = await service.inference.Tokenize(pb.TokenizeRequest(inputs=inputs))
    found = [fields(output.error) for output in response.outputs if output.HasField("error")]
    assert found == [[f"inputs[{position}].text"] for position in (0, 2, 3, 4)]


async def test_a_failing_stream_ends_with_its_status_and_its_execution(service: Service) -> None:
    call = service.inference.GenerateStream(stream_request("fail a"))
    read = Read()
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await read.all(call)
    assert failed.value.code() == grpc.StatusCode.INTERNAL
    assert read.ids == expected_ids("fail a", 2)
    assert not read.finished


async def test_the_status_of_a_failure_names_its_execution(service: Service) -> None:
    call = service.inference.GenerateStream(stream_request("long a"))
    status = await status_of(call)
    assert (status.code, reason(status)) == (Code.INVALID_ARGUMENT, "INPUT_TOO_LONG")
    info = errors.error_info(status)
    assert info is not None
    assert info.metadata["execution_id"] == dict(await call.initial_metadata())["x-execution-id"]
    assert (info.metadata["tokens"], info.metadata["max"]) == ("10000", "512")
