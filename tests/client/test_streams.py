"""Streams: whole after any break, stopped when left."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from itertools import islice
from typing import Any

import pytest
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from xlmstream import (
    AsyncClient,
    CandidateFinished,
    Client,
    CursorExpired,
    Event,
    FinishReason,
    PoisonedInput,
    ProtocolError,
    RequestNotFound,
    RetryPolicy,
    Started,
    StreamFinished,
    TokenDelta,
    Unavailable,
)
from xlmstream.streams import StreamState
from xlmstream.testing import Failure, FakeServer
from xlmstream.v1 import generation_pb2 as pb
from xlmstream.v1.inference_pb2 import CancelRequestRequest, GenerateStreamRequest, ResumeStreamRequest

TEXT = " my dear friend , how are you ?"
WORDS = 8


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TokenDelta))


def wait_for(server: FakeServer, condition: Any) -> None:
    with server.changed:
        assert server.changed.wait_for(condition, timeout=60)


def test_the_events_of_a_stream(clients: Any, server: FakeServer) -> None:
    events, stream = clients.stream(server.address, "Hello")
    assert isinstance(events[0], Started)
    assert events[0].model == "fake@1"
    assert [type(event) for event in events[1:-2]] == [TokenDelta] * WORDS
    assert events[-2] == CandidateFinished(FinishReason.EOS, 0)
    assert isinstance(events[-1], StreamFinished)
    assert text_of(events) == TEXT == stream.text
    assert stream.token_ids == tuple(one for event in events[1:-2] for one in event.token_ids)
    assert stream.finish_reason is FinishReason.EOS
    assert stream.next_event == len(events)
    assert [type(request).__name__ for request in server.requests] == ["GenerateStreamRequest"], "nothing to cancel"


def test_heartbeats_are_not_events(clients: Any) -> None:
    with FakeServer({"Hello": TEXT}, coalesce=(0, 0, 3)) as server:
        events, stream = clients.stream(server.address, "Hello")
    assert text_of(events) == TEXT
    assert [len(event.token_ids) for event in events if isinstance(event, TokenDelta)] == [3, 3, 2]
    assert stream.next_event == 1 + WORDS + 2


def test_text_deltas_and_the_whole_result(server: FakeServer, client: Client) -> None:
    with client.generate_stream("Hello") as stream:
        assert "".join(islice(stream.text_deltas(), 3)) == " my dear friend"
        assert "".join(stream.text_deltas()) == " , how are you ?", "goes on where the first loop stopped"
        assert list(stream) == []
        assert stream.result() == client.generate("Hello")


async def test_text_deltas_and_the_whole_result_asyncio(server: FakeServer) -> None:
    async with AsyncClient(server.address) as client, client.generate_stream("Hello") as stream:
        assert [text async for text in stream.text_deltas()] == [
            " my",
            " dear",
            " friend",
            " ,",
            " how",
            " are",
            " you",
            " ?",
        ]
        assert await stream.result() == await client.generate("Hello")


@settings(max_examples=examples(30))
@given(
    breaks=st.lists(st.integers(min_value=0, max_value=5), max_size=6),
    coalesce=st.lists(st.integers(min_value=0, max_value=4), min_size=1, max_size=4).filter(any),
    use_asyncio=st.booleans(),
)
def test_a_stream_that_breaks_anywhere_is_whole(breaks: list[int], coalesce: list[int], *, use_asyncio: bool) -> None:
    """However messages are cut and wherever connections break: no event is missing, none comes twice."""
    policy = RetryPolicy(max_attempts=20, initial_backoff_s=0)
    with FakeServer({"Hello": TEXT}, coalesce=coalesce) as server:
        server.break_streams(*breaks)
        if use_asyncio:

            async def read() -> tuple[list[Event], Any]:
                async with (
                    AsyncClient(server.address, retry=policy) as client,
                    client.generate_stream("Hello") as stream,
                ):
                    return [event async for event in stream], stream

            events, stream = asyncio.run(read())
        else:
            with Client(server.address, retry=policy) as client, client.generate_stream("Hello") as stream:
                events = list(stream)
    assert text_of(events) == TEXT == stream.text
    assert stream.token_ids == tuple(range(WORDS))
    assert [type(event) for event in events if not isinstance(event, TokenDelta)] == [
        Started,
        CandidateFinished,
        StreamFinished,
    ]
    first, *others = server.requests
    for request in others:
        if isinstance(request, ResumeStreamRequest):
            assert request.resume_token == events[0].resume_token
        else:
            assert request == first, "before the first event the same request joins itself"


def test_every_kind_of_broken_connection_is_taken_up(clients: Any, server: FakeServer) -> None:
    server.fail(Failure("DRAINING", retry_after_s=0.001), method="Stream", after_messages=2)
    server.fail(Failure("QUEUE_DOWN", retry_after_s=0.001), method="Stream")
    events, _ = clients.stream(server.address, "Hello")
    assert text_of(events) == TEXT
    assert [getattr(request, "next_event", None) for request in server.requests] == [None, 2, 2]


def test_an_error_of_the_service_ends_the_stream(clients: Any, server: FakeServer) -> None:
    server.fail(Failure("POISONED_INPUT", metadata={"execution_id": "e"}), method="Stream", after_messages=3)
    with pytest.raises(PoisonedInput) as caught:
        clients.stream(server.address, "Hello", request_id="mine")
    assert (caught.value.request_id, caught.value.execution_id) == ("mine", "e")
    assert len(server.requests) == 1, "what failed needs no resume and no cancel"


def test_what_was_read_before_an_error_stays(server: FakeServer, client: Client) -> None:
    server.fail(Failure("POISONED_INPUT"), method="Stream", after_messages=3)
    with client.generate_stream("Hello") as stream:
        with pytest.raises(PoisonedInput):
            stream.result()
        assert stream.text == " my dear"
        assert stream.finish_reason is None
        with pytest.raises(RuntimeError, match="first event to its last"):
            stream.result()


def test_a_stream_that_nobody_continues_gives_up(clients: Any, server: FakeServer) -> None:
    server.break_streams(3, *[0] * 20)
    with pytest.raises(Unavailable):
        clients.stream(server.address, "Hello")
    assert 3 < len(server.requests) < 20


def test_a_service_that_forgot_the_stream(clients: Any, server: FakeServer) -> None:
    server.break_streams(3)
    server.fail(Failure("REQUEST_NOT_FOUND"), method="ResumeStream")
    with pytest.raises(RequestNotFound):
        clients.stream(server.address, "Hello")


def test_leaving_a_stream_stops_the_work(clients: Any, server: FakeServer) -> None:
    server.hold(after_messages=4)
    _, stream = clients.stream(server.address, "Hello", take=2)
    assert server.requests[-1] == CancelRequestRequest(request_id=stream.request_id)
    wait_for(server, lambda: server.open_streams == 0)


def test_leaving_a_stream_before_its_first_event_stops_the_work(clients: Any, server: FakeServer) -> None:
    server.hold(after_messages=0)
    _, stream = clients.stream(server.address, "Hello", take=0)
    assert server.requests[-1] == CancelRequestRequest(request_id=stream.request_id)
    wait_for(server, lambda: server.open_streams == 0)


def test_an_exception_in_the_block_stops_the_work(server: FakeServer, client: Client) -> None:
    server.hold(after_messages=4)
    stream = client.generate_stream("Hello")

    def use() -> None:
        with stream:
            next(stream)
            raise KeyError

    with pytest.raises(KeyError):
        use()
    assert server.requests[-1] == CancelRequestRequest(request_id=stream.request_id)
    wait_for(server, lambda: server.open_streams == 0)


async def test_a_cancelled_task_stops_the_work(server: FakeServer) -> None:
    server.hold(after_messages=4)
    async with AsyncClient(server.address) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2), client.generate_stream("Hello", request_id="mine") as stream:
                await stream.result()
    assert server.requests[-1] == CancelRequestRequest(request_id="mine")
    await asyncio.to_thread(wait_for, server, lambda: server.open_streams == 0)


def test_leaving_when_the_service_is_gone_is_no_error(clients: Any) -> None:
    with FakeServer({"Hello": TEXT}) as server:
        server.hold(after_messages=2)
        server.fail(Failure("NO_WORKER"), method="CancelRequest")
        events, _ = clients.stream(server.address, "Hello", take=2)
    assert len(events) == 2


def test_a_stream_taken_up_by_another_client(clients: Any, server: FakeServer) -> None:
    events, stream = clients.stream(server.address, "Hello")
    token = stream.resume_token
    again, resumed = clients.stream(server.address, token, 4, verb="resume_stream")
    assert again == events[4:]
    assert resumed.request_id is None
    whole, _ = clients.stream(server.address, token, verb="resume_stream")
    assert whole == events
    with pytest.raises(CursorExpired) as caught:
        clients.stream(server.address, token, 99, verb="resume_stream")
    assert caught.value.next == len(events)


def test_a_resumed_stream_is_resumed_again(clients: Any, server: FakeServer) -> None:
    _, stream = clients.stream(server.address, "Hello")
    server.break_streams(2, 0, 1)
    events, _ = clients.stream(server.address, stream.resume_token, 3, verb="resume_stream")
    assert text_of(events) == " friend , how are you ?"


def test_leaving_a_resumed_stream_stops_its_work_where_its_name_is_known(clients: Any, server: FakeServer) -> None:
    server.hold(after_messages=3)
    with Client(server.address) as client, client.generate_stream("Hello") as stream:
        started = next(stream)
        assert isinstance(started, Started)
        clients.stream(server.address, started.resume_token, verb="resume_stream", take=1)
    cancels = [request for request in server.requests if isinstance(request, CancelRequestRequest)]
    assert cancels[0] == CancelRequestRequest(execution_id=started.execution_id)


def test_a_stream_is_read_in_its_block(server: FakeServer, client: Client) -> None:
    stream = client.generate_stream("Hello")
    with pytest.raises(RuntimeError, match="with block"):
        next(stream)
    assert server.requests == [], "nothing runs before the block"


async def test_a_stream_is_read_in_its_block_asyncio(server: FakeServer) -> None:
    async with AsyncClient(server.address) as client:
        with pytest.raises(RuntimeError, match="inside its block"):
            await anext(client.generate_stream("Hello"))


def event(first: int, count: int = 1, text: str = "x") -> pb.StreamEvent:
    return pb.StreamEvent(first_event=first, event_count=count, delta=pb.TokenDelta(text=text))


@pytest.mark.parametrize("first", [0, 2, 4])
def test_a_gap_or_a_repeat_is_never_passed_on(first: int) -> None:
    state = StreamState(GenerateStreamRequest())
    state._accept(pb.StreamEvent(first_event=0, event_count=1, started=pb.Started(resume_token="t")))
    state._accept(event(1, 2))
    with pytest.raises(ProtocolError, match=f"expected event 3, the service sent {first}"):
        state._accept(event(first))
    assert state.text == "x"


def test_candidates_are_kept_apart() -> None:
    state = StreamState(GenerateStreamRequest())
    state._accept(pb.StreamEvent(first_event=0, event_count=1, started=pb.Started(resume_token="t")))
    for number, (candidate, text) in enumerate([(1, "b"), (0, "a"), (1, "B"), (0, "A")], 1):
        delta = pb.TokenDelta(candidate=candidate, text=text, token_ids=[number])
        state._accept(pb.StreamEvent(first_event=number, event_count=1, delta=delta))
    for number, candidate in ((5, 1), (6, 0)):
        finished = pb.CandidateFinished(candidate=candidate, finish_reason=1 + candidate)  # type: ignore[arg-type]
        state._accept(pb.StreamEvent(first_event=number, event_count=1, candidate_finished=finished))
    state._accept(pb.StreamEvent(first_event=7, event_count=1, finished=pb.StreamFinished()))
    assert [(one.text, one.token_ids, one.finish_reason) for one in state._generation().candidates] == [
        ("aA", (2, 4), FinishReason.EOS),
        ("bB", (1, 3), FinishReason.LENGTH),
    ]


@contextmanager
def cutting_proxy(address: str, *, cut_after_bytes: list[int]) -> Iterator[str]:
    """A TCP proxy that cuts each next connection after so many bytes from the service; later ones stay whole."""
    host, port = address.split(":")
    listener = socket.create_server(("127.0.0.1", 0))
    sockets: list[socket.socket] = []

    def relay(source: socket.socket, sink: socket.socket, most: float) -> None:
        with closing(source), closing(sink):
            try:
                while most > 0 and (data := source.recv(int(min(most, 65536)))):
                    sink.sendall(data)
                    most -= len(data)
            except OSError:
                return
            # close() alone would not wake the other direction, which waits in recv
            for one in (source, sink):
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        while True:
            try:
                caller, _ = listener.accept()
            except OSError:
                return
            service = socket.create_connection((host, int(port)))
            sockets.extend((caller, service))
            most = cut_after_bytes.pop(0) if cut_after_bytes else float("inf")
            threading.Thread(target=relay, args=(caller, service, float("inf"))).start()
            threading.Thread(target=relay, args=(service, caller, most)).start()

    threading.Thread(target=accept).start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for one in sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("cuts", [[400], [250, 300, 350], [100, 600]])
def test_a_connection_cut_in_the_middle_of_its_bytes(clients: Any, server: FakeServer, cuts: list[int]) -> None:
    with cutting_proxy(server.address, cut_after_bytes=list(cuts)) as address:
        events, _ = clients.stream(address, "Hello")
    assert text_of(events) == TEXT


def test_another_address_takes_over(clients: Any, unused_tcp_port: int) -> None:
    with FakeServer({"Hello": TEXT}) as server:
        addresses = [f"127.0.0.1:{unused_tcp_port}", server.address]
        assert clients.call(addresses, "generate", "Hello").text == TEXT
        events, _ = clients.stream(addresses, "Hello")
        assert text_of(events) == TEXT
