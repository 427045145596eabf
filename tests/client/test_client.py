"""The verbs of both clients, over the wire."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from client.conftest import FAST
from xlmstream import (
    AsyncClient,
    Cancelled,
    Client,
    DeadlineExceeded,
    FinishReason,
    Generation,
    InputTooLong,
    ModelNotFound,
    QueueFull,
    RequestNotFound,
    RetryPolicy,
    TextInput,
    Token,
    TokenIds,
    Unavailable,
)
from xlmstream.testing import Failure, FakeServer
from xlmstream.testing.stage import fake_model


def wait_for(server: FakeServer, condition: Any) -> None:
    with server.changed:
        assert server.changed.wait_for(condition, timeout=60)


def test_one_prompt_gives_one_generation(clients: Any, server: FakeServer) -> None:
    generation = clients.call(server.address, "generate", "Hello", max_new_tokens=3)
    assert isinstance(generation, Generation)
    assert generation.text == " my dear friend"
    assert len(generation.token_ids) == 3
    assert generation.finish_reason is FinishReason.LENGTH
    assert generation.parameters.max_new_tokens == 3
    assert (generation.usage.prompt_tokens, generation.usage.completion_tokens) == (1, 3)
    assert (generation.timing.total_us, generation.timing.worker_id) == (130, "fake")


def test_several_prompts_keep_their_order_and_an_error_its_place(clients: Any, server: FakeServer) -> None:
    prompts = ["In", "Hello", "unheard of", "In"]
    outcomes = clients.call(server.address, "generate", prompts, return_exceptions=True, request_id="mine")
    assert [getattr(one, "text", None) for one in outcomes] == [
        " the beginning",
        " my dear friend , how are you ?",
        None,
        " the beginning",
    ]
    assert outcomes[2].reason == "INVALID_INPUT"
    assert (outcomes[2].input_index, outcomes[2].request_id) == (2, "mine")
    with pytest.raises(type(outcomes[2])) as caught:
        clients.call(server.address, "generate", prompts)
    assert caught.value.input_index == 2


def test_an_error_of_the_only_prompt_is_raised(clients: Any) -> None:
    failure = Failure("INPUT_TOO_LONG", metadata={"tokens": "10000", "max": "256"})
    with FakeServer({"long": failure}) as server, pytest.raises(InputTooLong) as caught:
        clients.call(server.address, "generate", "long")
    assert caught.value.tokens == 10000


def test_token_ids_as_prompt(clients: Any, server: FakeServer) -> None:
    ids = clients.call(server.address, "tokenize", "Hello").ids
    prompt = TextInput(token_ids=TokenIds(ids=ids))
    assert clients.call(server.address, "generate", prompt).text == " my dear friend , how are you ?"


def test_tokens_and_back(clients: Any, server: FakeServer) -> None:
    tokens = clients.call(server.address, "tokenize", "a bc a", add_special_tokens=True)
    assert tokens.tokens[1] == Token(id=tokens.ids[1], piece="bc</w>", start=2, end=4)
    assert tokens.pieces == ("a</w>", "bc</w>", "a</w>")
    assert server.requests[-1].add_special_tokens  # type: ignore[attr-defined]
    assert clients.call(server.address, "detokenize", tokens.ids, skip_special_tokens=True) == "a bc a"
    assert server.requests[-1].skip_special_tokens  # type: ignore[attr-defined]
    both = clients.call(server.address, "tokenize", ["a", "bc"])
    assert clients.call(server.address, "detokenize", [one.ids for one in both]) == ["a", "bc"]


def test_models_and_the_gateway(clients: Any, server: FakeServer) -> None:
    server.models = [fake_model("a"), fake_model("b", "2")]
    assert [model.name for model in clients.call(server.address, "models")] == ["a", "b"]
    assert clients.call(server.address, "model", "b@2").version == "2"
    with pytest.raises(ModelNotFound) as caught:
        clients.call(server.address, "model", "c")
    assert caught.value.models == ("a@1", "b@2")
    assert clients.call(server.address, "server_info").limits.max_inputs == 256
    assert [load.model for load in clients.call(server.address, "load")] == ["a@1", "b@2"]


def test_cancel_by_either_name(clients: Any, server: FakeServer) -> None:
    events, _ = clients.stream(server.address, "Hello", request_id="mine")
    assert clients.call(server.address, "cancel", request_id="mine") is False, "it had ended"
    assert clients.call(server.address, "cancel", execution_id=events[0].execution_id) is False
    with pytest.raises(RequestNotFound):
        clients.call(server.address, "cancel", request_id="another")


@pytest.mark.parametrize("failure", [Failure(), Failure("QUEUE_FULL", retry_after_s=0.001)])
@pytest.mark.parametrize("verb", ["generate", "tokenize"])
def test_what_may_help_is_tried_again_under_the_same_key(
    clients: Any, server: FakeServer, verb: str, failure: Failure
) -> None:
    for _ in range(3):
        server.fail(failure)
    clients.call(server.address, verb, "Hello")
    assert len(server.requests) == 4
    assert all(request == server.requests[0] for request in server.requests), "the same request, its request_id too"


def test_persistence_has_an_end(clients: Any, server: FakeServer) -> None:
    for _ in range(3):
        server.fail(Failure("QUEUE_FULL", retry_after_s=0.001))
    policy = RetryPolicy(max_attempts=3, initial_backoff_s=0)
    with pytest.raises(QueueFull) as caught:
        clients.call(server.address, "generate", "Hello", retry=policy)
    assert caught.value.retry_after_s == 0.001
    assert len(server.requests) == 3


def test_a_wait_beyond_the_time_limit_is_not_begun(clients: Any, server: FakeServer) -> None:
    server.fail(Failure("QUEUE_FULL", retry_after_s=3600))
    with pytest.raises(QueueFull):
        clients.call(server.address, "generate", "Hello", timeout_s=60)
    assert len(server.requests) == 1


def test_the_time_limit_ends_a_call(clients: Any, server: FakeServer) -> None:
    server.hold(after_messages=2)
    with pytest.raises(DeadlineExceeded):
        clients.stream(server.address, "Hello", timeout_s=0.2)


def test_nothing_answers(clients: Any, unused_tcp_port: int) -> None:
    with pytest.raises(Unavailable) as caught:
        clients.call(f"127.0.0.1:{unused_tcp_port}", "models", retry=RetryPolicy(max_attempts=2, initial_backoff_s=0))
    assert caught.value.retryable


def test_watched_models_come_again_after_every_change_and_break(clients: Any, server: FakeServer) -> None:
    server.fail(Failure(), method="WatchModels", after_messages=1)
    first, second = [fake_model("a")], [fake_model("a"), fake_model("b")]
    server.models = first
    events, _ = clients.stream(server.address, verb="watch_models", take=1)
    assert events == [first]
    server.fail(Failure(), method="WatchModels", after_messages=1)
    change = threading.Timer(0.05, lambda: (setattr(server, "models", second), server.notify()))
    change.start()
    events, _ = clients.stream(server.address, verb="watch_models", take=2)
    change.join()
    # The connection breaks at the change; the new one tells the models as they are.
    assert events == [first, second]


def test_a_closed_client_says_so(clients: Any, server: FakeServer) -> None:
    client = Client(server.address)
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.models()

    async def run() -> None:
        client = AsyncClient(server.address)
        await client.models()
        await client.close()
        with pytest.raises(RuntimeError, match="closed"):
            await client.models()

    asyncio.run(run())


def test_one_blocking_client_serves_many_threads(server: FakeServer, client: Client) -> None:
    def work(number: int) -> tuple[str, str]:
        whole = client.generate("Hello", max_new_tokens=1 + number % 8).text
        with client.generate_stream("Hello", max_new_tokens=1 + number % 8) as stream:
            return whole, stream.result().text

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(work, range(64)))
    words = [" my", " dear", " friend", " ,", " how", " are", " you", " ?"]
    assert answers == [("".join(words[: 1 + n % 8]),) * 2 for n in range(64)]


async def test_many_calls_in_one_task_group(server: FakeServer) -> None:
    async with AsyncClient(server.address) as client, asyncio.TaskGroup() as group:
        tasks = [group.create_task(client.generate("Hello")) for _ in range(64)]
    assert {task.result().text for task in tasks} == {" my dear friend , how are you ?"}


async def test_a_client_made_outside_any_event_loop(server: FakeServer) -> None:
    client = await asyncio.to_thread(AsyncClient, server.address)
    async with client:
        assert (await client.generate("In")).text == " the beginning"


async def test_an_interrupted_call_is_withdrawn(server: FakeServer) -> None:
    entered = threading.Event()
    leave = threading.Event()

    def slowly(prompt: str) -> str:
        entered.set()
        leave.wait(60)
        return prompt

    with FakeServer(slowly) as server:
        async with AsyncClient(server.address) as client:
            task = asyncio.create_task(client.generate("Hello", request_id="mine"))
            await asyncio.to_thread(entered.wait, 60)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            leave.set()
    assert server.requests[-1].request_id == "mine"  # type: ignore[attr-defined]


async def test_closing_the_client_ends_calls_of_other_tasks_as_cancelled_not_the_tasks(server: FakeServer) -> None:
    server.hold(after_messages=2)
    client = AsyncClient(server.address)

    async def read() -> str:
        async with client.generate_stream("Hello") as stream:
            try:
                return (await stream.result()).text
            except Cancelled:
                return "told"

    readers = [asyncio.create_task(read()) for _ in range(4)]
    await asyncio.to_thread(wait_for, server, lambda: server.open_streams == 4)
    await client.close()
    assert await asyncio.gather(*readers) == ["told"] * 4
    await asyncio.to_thread(wait_for, server, lambda: server.open_streams == 0)


def test_closing_the_client_ends_streams_of_other_threads(server: FakeServer) -> None:
    server.hold(after_messages=2)
    client = Client(server.address)

    def read() -> str:
        with client.generate_stream("Hello") as stream:
            try:
                return stream.result().text
            except Cancelled:
                return "told"

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(4)]
        wait_for(server, lambda: server.open_streams == 4)
        client.close()
        assert [reader.result(10) for reader in readers] == ["told"] * 4
    wait_for(server, lambda: server.open_streams == 0)


def test_a_stream_that_is_left_while_it_waits_to_reconnect_does_not(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another thread may do: nobody would close the new call."""
    server.fail(Failure(), method="WatchModels")
    with Client(server.address, retry=FAST) as client, client.watch_models() as stream:
        monkeypatch.setattr(stream._calls, "wait", lambda *_: stream.close())
        with pytest.raises(Cancelled):
            next(stream)
        assert stream._call is None
