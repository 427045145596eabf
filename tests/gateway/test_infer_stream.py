"""InferStream: items of any tasks over one call, with a window, orders, cancellation and ends of every kind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import grpc
import grpc.aio
import pytest
from gateway.conftest import ServeGateway, Service
from gateway.helpers import fields, reason
from gateway.infer import Infer, embed_item, generate_item
from gateway.scripted_worker import ScriptedWorker, expected_ids, text_of
from xlmstream.v1.common_pb2 import DISCONNECT_POLICY_DETACH, TextInput, TokenIds
from xlmstream.v1.inference_pb2 import (
    ChooseMultipleItem,
    ClassifySequenceItem,
    DetokenizeItem,
    FillMaskItem,
    InferAction,
    InferItem,
    InferOpen,
    ScoreItem,
    TokenizeItem,
)
from xlmstream_server.broker import Stop
from xlmstream_server.config import GatewayConfig
from xlmstream_server.executions import Executions


@pytest.fixture
async def infer(service: Service) -> AsyncIterator[Infer]:
    stream = await Infer(service).open()
    yield stream
    stream.call.cancel()


async def test_many_items_share_executions_and_messages(infer: Infer, worker: ScriptedWorker) -> None:
    texts = [f"{'t' * (i % 7)}." for i in range(500)]
    for start in range(0, 500, 100):
        await infer.items(*(embed_item(i, texts[i]) for i in range(start, start + 100)))
    await infer.finish()
    assert {i: output.embed.embedding.data[0] for i, output in infer.outputs.items()} == {
        i: len(text) for i, text in enumerate(texts)
    }
    assert infer.finished is not None
    assert (infer.finished.outputs, infer.finished.errors) == (500, 0)
    assert infer.credit == 1024
    assert len(worker.sizes) <= 10
    assert infer.messages < 50


async def test_every_task_in_one_stream(infer: Infer) -> None:
    text = TextInput(text="a b")
    await infer.items(
        generate_item(1, "one"),
        embed_item(2, "abc"),
        InferItem(correlation_id=3, fill_mask=FillMaskItem(input=text)),
        InferItem(correlation_id=4, classify_sequence=ClassifySequenceItem(input={"text": text})),
        InferItem(correlation_id=5, classify_tokens={"input": text}),
        InferItem(correlation_id=6, answer_question={"input": {"question": text, "context": text}}),
        InferItem(correlation_id=7, choose_multiple=ChooseMultipleItem(input={"prompt": text, "choices": [text]})),
        InferItem(correlation_id=8, score=ScoreItem(input=text)),
        InferItem(correlation_id=9, tokenize=TokenizeItem(input=text)),
        InferItem(correlation_id=10, detokenize=DetokenizeItem(input=TokenIds(ids=[1, 2]))),
    )
    await infer.finish()
    found = {identity: output.WhichOneof("outcome") for identity, output in infer.outputs.items()}
    assert found == {
        1: "generate",
        2: "embed",
        3: "fill_mask",
        4: "classify_sequence",
        5: "classify_tokens",
        6: "answer_question",
        7: "choose_multiple",
        8: "score",
        9: "tokenize",
        10: "detokenize",
    }
    assert list(infer.outputs[1].generate.candidates[0].token_ids) == expected_ids("one", 10)
    assert infer.outputs[8].score.scored_tokens == 3
    assert infer.outputs[10].detokenize.text == " w1 w2"


async def test_a_bad_item_fails_alone_and_names_its_field(infer: Infer, worker: ScriptedWorker) -> None:
    await infer.items(
        embed_item(1, "good"),
        embed_item(2, " "),
        embed_item(3, "bad"),
        embed_item(4, "good", layer=9),
        InferItem(correlation_id=5),
        embed_item(6, "poison"),
        generate_item(7, "long a"),
        generate_item(8, "fail a"),
        embed_item(9, "better"),
    )
    await infer.finish()
    assert {i for i, output in infer.outputs.items() if output.WhichOneof("outcome") != "error"} == {1, 9}
    wrong = {i: (reason(output.error), fields(output.error)) for i, output in infer.outputs.items() if i not in (1, 9)}
    assert wrong == {
        2: ("INVALID_INPUT", ["embed.input.text"]),
        3: ("INVALID_INPUT", ["embed.input.text"]),
        4: ("INVALID_INPUT", ["embed.parameters.layer"]),
        5: ("INVALID_INPUT", ["task"]),
        6: ("POISONED_INPUT", []),
        7: ("INPUT_TOO_LONG", ["generate.input.text"]),
        8: ("INTERNAL", []),
    }
    assert infer.finished is not None
    assert infer.finished.errors == 7
    assert sorted(worker.sizes) == [1, 1, 1, 1, 4]


async def test_outputs_come_as_they_are_ready_or_in_order(service: Service, worker: ScriptedWorker) -> None:
    free = await Infer(service).open()
    ordered = await Infer(service, ordered=True).open()
    for stream, text in ((free, "wait free"), (ordered, "wait ordered")):
        await stream.items(embed_item(5, text))
        await stream.items(embed_item(3, "b"), embed_item(4, " "))
    await free.until(lambda: len(free.order) == 2)
    await asyncio.to_thread(worker.wait, lambda: sum(worker.sizes) == 4)
    assert not ordered.order
    worker.release("wait free")
    worker.release("wait ordered")
    await free.finish()
    await ordered.finish()
    assert sorted(free.order[:2]) == [3, 4]
    assert free.order[2] == 5
    assert ordered.order == [5, 3, 4]


async def test_deltas_come_before_the_output_that_has_the_whole(infer: Infer) -> None:
    await infer.items(generate_item(1, "a", 50, deltas=True), generate_item(2, "b", 5))
    await infer.finish()
    assert set(infer.texts) == {1}
    assert infer.texts[1] == infer.outputs[1].generate.candidates[0].text == text_of(expected_ids("a", 50))


async def test_an_item_beyond_its_credit_is_refused_and_the_rest_go_on(
    serve_gateway: ServeGateway, quick_config: GatewayConfig, worker: ScriptedWorker
) -> None:
    config = replace(quick_config, limits=replace(quick_config.limits, max_stream_items=2))
    async with serve_gateway(config) as service:
        infer = await Infer(service, ordered=True).open()
        assert infer.credit == 2
        await infer.items(embed_item(1, "wait"), embed_item(2, "b"), embed_item(3, "c"))
        await infer.until(lambda: 3 in infer.outputs)
        assert reason(infer.outputs[3].error) == "QUEUE_FULL"
        assert infer.credit == 2 - 3
        worker.release("wait")
        await infer.until(lambda: infer.credit == 2 - 3 + 2)
        await infer.items(embed_item(4, "again"))
        await infer.finish()
        assert infer.order == [3, 1, 2, 4]


async def test_outputs_that_wait_for_their_order_keep_their_credit(
    serve_gateway: ServeGateway, quick_config: GatewayConfig, worker: ScriptedWorker
) -> None:
    config = replace(quick_config, limits=replace(quick_config.limits, max_stream_items=2))
    async with serve_gateway(config) as service:
        infer = await Infer(service, ordered=True).open()
        await infer.items(embed_item(1, "wait"))
        await infer.items(embed_item(2, "b"))
        await asyncio.to_thread(worker.wait, lambda: len(worker.sizes) == 2)
        await infer.items(embed_item(3, "c"))
        await infer.until(lambda: 3 in infer.outputs)
        assert reason(infer.outputs[3].error) == "QUEUE_FULL"
        worker.release("wait")
        await infer.finish()
        assert infer.order == [3, 1, 2]


async def test_a_stream_that_says_nothing(service: Service) -> None:
    infer = Infer(service)
    await infer.call.done_writing()
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await infer.until(lambda: False)
    assert failed.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_cancelled_items_end_and_leave_their_neighbours_alone(infer: Infer, worker: ScriptedWorker) -> None:
    await infer.items(embed_item(1, "wait a"), embed_item(2, "b"))
    await infer.items(embed_item(3, "wait c"))
    await infer.items(generate_item(4, "hold:2 d"))
    await asyncio.to_thread(worker.wait, lambda: len(worker.waiting) == 2 and len(worker.rows) == 1)
    await infer.cancel(1, 3, 4, 99)
    await infer.until(lambda: len(infer.outputs) == 3)
    assert {reason(infer.outputs[i].error) for i in (1, 3, 4)} == {"CANCELLED"}
    await asyncio.to_thread(worker.wait, lambda: len(worker.waiting) == 1 and not worker.rows)
    worker.release("wait a")
    await infer.finish()
    assert infer.outputs[2].embed.embedding.data[0] == 1


async def test_cancelling_everything(infer: Infer, worker: ScriptedWorker) -> None:
    await infer.items(embed_item(1, "wait a"), generate_item(2, "hold:1 b"))
    await infer.cancel()
    await infer.finish()
    assert {reason(output.error) for output in infer.outputs.values()} == {"CANCELLED"}
    await asyncio.to_thread(worker.wait, lambda: not worker.waiting and not worker.rows)


async def test_a_caller_that_goes_away_cancels_its_items(service: Service, worker: ScriptedWorker) -> None:
    infer = await Infer(service).open()
    await infer.items(embed_item(1, "wait a"), generate_item(2, "hold:2 b"))
    await asyncio.to_thread(worker.wait, lambda: bool(worker.waiting) and bool(worker.rows))
    infer.call.cancel()
    await asyncio.to_thread(worker.wait, lambda: not worker.waiting and not worker.rows)
    assert service.gateway.relay.open_executions == 0


async def test_a_generation_sent_again_over_another_stream_joins_the_first(
    service: Service, worker: ScriptedWorker
) -> None:
    options = {"request_id": "map-1", "disconnect_policy": DISCONNECT_POLICY_DETACH}
    first = await Infer(service, **options).open()
    await first.items(generate_item(7, "hold:3 a", 6))
    await asyncio.to_thread(worker.wait, lambda: len(worker.rows) == 1)
    first.call.cancel()
    again = await Infer(service, **options).open()
    await again.items(generate_item(7, "hold:3 a", 6, deltas=True))
    await again.until(lambda: 7 in again.texts)
    worker.release("hold:3 a")
    await again.finish()
    assert list(again.outputs[7].generate.candidates[0].token_ids) == expected_ids("hold:3 a", 6)
    assert again.texts[7] == text_of(expected_ids("hold:3 a", 6))
    assert len(worker.started) == 1


async def test_cancelling_ends_what_would_outlive_its_listeners(service: Service, worker: ScriptedWorker) -> None:
    infer = await Infer(service, request_id="map-2", disconnect_policy=DISCONNECT_POLICY_DETACH).open()
    await infer.items(generate_item(1, "hold:2 a"))
    await asyncio.to_thread(worker.wait, lambda: len(worker.rows) == 1)
    await infer.cancel(1)
    await infer.until(lambda: 1 in infer.outputs)
    await asyncio.to_thread(worker.wait, lambda: not worker.rows)
    await infer.finish()


async def test_what_is_cancelled_last_ends_although_the_stream_is_over(
    service: Service, worker: ScriptedWorker
) -> None:
    """Well before the 30 s are over that work without a listener may go on for."""
    infer = await Infer(service, request_id="map-3", disconnect_policy=DISCONNECT_POLICY_DETACH).open()
    await infer.items(*(generate_item(i, f"hold:2 {i}") for i in range(8)))
    await asyncio.to_thread(worker.wait, lambda: len(worker.rows) == 8)
    await infer.cancel()
    await infer.finish()
    await asyncio.to_thread(worker.wait, lambda: not worker.rows)
    assert set(worker.stopped.values()) == {Stop.CANCELLED}


async def test_a_defect_in_the_background_ends_the_call(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An item that nobody works on would keep its caller waiting until the deadline."""

    async def start(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(Executions, "start", start)
    infer = await Infer(service, timeout=60.0).open()
    await infer.items(embed_item(1, "a"))
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await infer.until(lambda: False)
    assert failed.value.code() is grpc.StatusCode.INTERNAL
    assert "a defect ended a call" in caplog.text


async def test_items_end_at_the_deadline_of_the_call(service: Service, worker: ScriptedWorker) -> None:
    infer = await Infer(service, timeout=2.0).open()
    await infer.items(generate_item(1, "hold:2 a"), embed_item(2, "b"))
    await infer.until(lambda: len(infer.outputs) == 2)
    assert reason(infer.outputs[1].error) in ("DEADLINE_COMPUTE", "DEADLINE_QUEUE")
    assert infer.outputs[2].HasField("embed")
    await asyncio.to_thread(worker.wait, lambda: not worker.rows)


@pytest.mark.parametrize(
    ("actions", "field"),
    [
        ([InferAction(item=embed_item(1, "a"))], "open"),
        ([InferAction(open=InferOpen()), InferAction(open=InferOpen())], "open"),
        ([InferAction(open=InferOpen(options={"priority": 9}))], "options.priority"),
        ([InferAction()], "actions"),
        ([InferAction(open=InferOpen()), *(InferAction(item=embed_item(i, "a")) for i in range(4096))], "actions"),
        (
            [InferAction(open=InferOpen()), *(InferAction(item=embed_item(1, "wait")) for _ in range(2))],
            "item.correlation_id",
        ),
    ],
)
async def test_a_caller_that_breaks_the_rules_loses_its_call(
    service: Service, actions: list[InferAction], field: str
) -> None:
    infer = Infer(service)
    await infer.send(*actions)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await infer.until(lambda: False)
    assert failed.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert field in (failed.value.details() or "")
    assert service.gateway.relay.open_executions == 0


async def test_a_model_that_is_not_there_fails_each_item(service: Service) -> None:
    infer = await Infer(service, model="nobody").open()
    await infer.items(embed_item(1, "a"), generate_item(2, "b"))
    await infer.finish()
    assert {reason(output.error) for output in infer.outputs.values()} == {"MODEL_NOT_FOUND"}


async def test_draining_refuses_new_items_and_lets_others_end(
    serve_gateway: ServeGateway, quick_config: GatewayConfig, worker: ScriptedWorker
) -> None:
    config = replace(quick_config, connections=replace(quick_config.connections, drain_s=5.0))
    async with serve_gateway(config) as service:
        infer = await Infer(service).open()
        await infer.items(embed_item(1, "wait"))
        await asyncio.to_thread(worker.wait, lambda: bool(worker.waiting))
        draining = asyncio.ensure_future(service.gateway.drain(5.0))
        await asyncio.sleep(0)
        await infer.items(embed_item(2, "late"))
        await infer.until(lambda: 2 in infer.outputs)
        assert reason(infer.outputs[2].error) == "DRAINING"
        worker.release("wait")
        await infer.finish()
        assert infer.outputs[1].HasField("embed")
        await draining
