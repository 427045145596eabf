"""`map` over InferStream, on both clients: order, windows, errors, connections that break."""

import asyncio
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
from client.conftest import FAST
from xlmstream import AsyncClient, Client, InvalidInput, Mapped, PoisonedInput, Question, RetryPolicy, Unavailable
from xlmstream.mapping import MapState
from xlmstream.tasks import TASKS
from xlmstream.testing import Failure, FakeServer
from xlmstream.v1.inference_pb2 import InferStreamRequest, InferStreamResponse


def run(clients: Any, server: FakeServer, *args: Any, take: int | None = None, **keywords: Any) -> list[Mapped[Any]]:
    if clients.is_blocking:
        with Client(server.address, retry=FAST) as client, client.map(*args, **keywords) as stream:
            return list(islice(stream, take))

    async def collect() -> list[Mapped[Any]]:
        found = []
        async with AsyncClient(server.address, retry=FAST) as client, client.map(*args, **keywords) as stream:
            async for mapped in stream:
                found.append(mapped)
                if len(found) == take:
                    break
        return found

    return asyncio.run(collect())


def items_sent(server: FakeServer) -> list[int]:
    """The correlation ids of the items of all streams, as they came."""
    return [
        action.item.correlation_id
        for request in server.requests
        if isinstance(request, InferStreamRequest)
        for action in request.actions
        if action.HasField("item")
    ]


@pytest.mark.parametrize("ordered", [True, False])
def test_many_inputs_come_back_each_once(clients: Any, server: FakeServer, ordered: bool) -> None:
    texts = [f"text {i}" for i in range(500)]
    found = run(clients, server, "score", iter(texts), ordered=ordered, max_in_flight=16)
    assert [mapped.index for mapped in sorted(found, key=lambda each: each.index)] == list(range(500))
    assert all(mapped.input == texts[mapped.index] for mapped in found)
    assert all(mapped.result.scored_tokens == 2 for mapped in found)
    if ordered:
        assert [mapped.index for mapped in found] == list(range(500))
    sizes = [len(request.actions) for request in server.requests if isinstance(request, InferStreamRequest)]
    assert max(sizes) <= 16


@pytest.mark.parametrize("name", TASKS)
def test_every_task(clients: Any, server: FakeServer, name: str) -> None:
    inputs: dict[str, Any] = {"answer": Question("Who?", "Ada"), "choose": ("a", ["b"]), "detokenize": [0]}
    [mapped] = run(clients, server, name, [inputs.get(name, "Hello")])
    assert mapped.error is None
    assert mapped.result is not None


def test_no_inputs(clients: Any, server: FakeServer) -> None:
    assert run(clients, server, "embed", []) == []


@pytest.mark.parametrize("ordered", [True, False])
def test_a_bad_input_fails_alone(clients: Any, ordered: bool) -> None:
    with FakeServer({"bad": Failure("POISONED_INPUT"), "b": "b"}) as server:
        found = run(clients, server, "embed", ["a", "bad", 7, "c"], ordered=ordered)
    by_index = {mapped.index: mapped for mapped in found}
    assert isinstance(by_index[1].error, PoisonedInput)
    assert by_index[1].error.input_index == 1
    assert isinstance(by_index[2].error, InvalidInput)
    assert by_index[3].result.tensor.shape == (8,)
    with pytest.raises(PoisonedInput):
        _ = by_index[1].result


@pytest.mark.parametrize("ordered", [True, False])
def test_nothing_but_bad_inputs(clients: Any, server: FakeServer, ordered: bool) -> None:
    found = run(clients, server, "embed", [1, 2, 3], ordered=ordered)
    assert [type(mapped.error) for mapped in found] == [InvalidInput] * 3


def test_inputs_are_taken_as_results_are_handed_out(clients: Any, server: FakeServer) -> None:
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield "a"

    assert len(run(clients, server, "embed", endless(), max_in_flight=4, take=10)) == 10
    assert taken <= 10 + 4 * 4


def test_the_window_of_the_service_is_kept(clients: Any, server: FakeServer) -> None:
    server.window = 3
    assert len(run(clients, server, "embed", ["a"] * 50, max_in_flight=64)) == 50
    sizes = [len(request.actions) for request in server.requests if isinstance(request, InferStreamRequest)]
    assert max(sizes) <= 3


@pytest.mark.parametrize("task", ["embed", "generate"])
@pytest.mark.parametrize("broken_after", [0, 1, 3])
def test_a_stream_that_breaks_is_opened_anew_and_loses_nothing(
    clients: Any, server: FakeServer, task: str, broken_after: int
) -> None:
    for count in (broken_after, broken_after + 1):
        server.fail(Failure(), method="InferStream", after_messages=count)
    found = run(clients, server, task, ["Hello"] * 100, max_in_flight=8)
    assert [mapped.index for mapped in found] == list(range(100))
    assert all(mapped.error is None for mapped in found)
    opens = [
        action.open
        for request in server.requests
        if isinstance(request, InferStreamRequest)
        for action in request.actions
        if action.HasField("open")
    ]
    assert len(opens) == 3
    assert len({each.options.request_id for each in opens}) == 1


def test_a_service_that_stays_away_is_given_up(clients: Any, server: FakeServer) -> None:
    for _ in range(FAST.max_attempts):
        server.fail(Failure(), method="InferStream")
    with pytest.raises(Unavailable):
        run(clients, server, "embed", ["a"])


def test_a_map_that_was_left_gives_nothing_more(clients: Any, server: FakeServer) -> None:
    if clients.is_blocking:
        with Client(server.address, retry=FAST) as client:
            with client.map("embed", ["a", "b"]) as stream:
                pass
            found = list(stream)
    else:

        async def leave() -> list[Any]:
            async with AsyncClient(server.address, retry=FAST) as client:
                async with client.map("embed", ["a", "b"]) as stream:
                    pass
                return [mapped async for mapped in stream]

        found = asyncio.run(leave())
    assert found == []
    assert items_sent(server) == []


def test_a_call_that_is_wrong_as_a_whole_is_raised(clients: Any, server: FakeServer) -> None:
    server.fail(Failure("INVALID_INPUT", field="options.model"), method="InferStream")
    with pytest.raises(InvalidInput):
        run(clients, server, "embed", ["a"])


@pytest.mark.parametrize("reason", ["QUEUE_FULL", "DRAINING"])
def test_what_may_help_is_sent_again(clients: Any, reason: str) -> None:
    refusals = iter([Failure(reason, retry_after_s=0.001)] * 3)
    with FakeServer(lambda text: next(refusals, "") if text == "b" else text) as server:
        found = run(clients, server, "embed", ["a", "b", "c"])
        assert [mapped.error for mapped in found] == [None] * 3
        assert sorted(items_sent(server)) == [0, 1, 1, 1, 1, 2]


def test_what_does_not_help_in_the_end_is_told(clients: Any) -> None:
    with FakeServer({"b": Failure("QUEUE_FULL", retry_after_s=0.001)}) as server:
        found = run(clients, server, "embed", ["a", "b"])
        assert [mapped.error is None for mapped in found] == [True, False]
        assert items_sent(server).count(1) == FAST.max_attempts


@pytest.mark.parametrize(
    ("args", "keywords", "kind"),
    [
        (("paint", []), {}, ValueError),
        (("embed", []), {"top_k": 3}, TypeError),
        (("embed", []), {"max_in_flight": 0}, ValueError),
    ],
)
def test_wrong_arguments(
    clients: Any, server: FakeServer, args: tuple[Any, ...], keywords: dict[str, Any], kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        run(clients, server, *args, **keywords)


def test_results_that_wait_for_the_first_bound_what_is_taken() -> None:
    state: MapState[Any] = MapState(
        TASKS["embed"], iter(["a"] * 1000), {}, RetryPolicy(), ordered=True, max_in_flight=4
    )
    state.opening()
    state.accept(InferStreamResponse(events=[{"opened": {"credit": 1000}}]))
    sent = 0
    while (message := state.next_message()) is not None:
        sent += len(message.actions)
        for action in message.actions:
            identity = action.item.correlation_id
            if identity != 0:
                result = {"embedding": {"dtype": 1, "shape": [1], "data": b"\0\0\0\0"}}
                state.accept(InferStreamResponse(events=[{"output": {"correlation_id": identity, "embed": result}}]))
    assert sent == 16
    assert state.due() is None
