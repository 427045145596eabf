"""The order of events, without any IO: whatever frames come, no event is handed on twice or out of turn."""

from __future__ import annotations

import asyncio

import pytest
from google.rpc.status_pb2 import Status
from hypothesis import example, given
from hypothesis import strategies as st
from xlmstream.v1.generation_pb2 import CandidateFinished, Started, StreamFinished, TokenDelta
from xlmstream_server import errors
from xlmstream_server.broker import journal
from xlmstream_server.broker.v1.messages_pb2 import Event, FrameItem
from xlmstream_server.coalesce import coalesce, failure, heartbeat
from xlmstream_server.listener import Listener, split_events


def token(number: int, candidate: int = 0) -> Event:
    return Event(delta=TokenDelta(candidate=candidate, token_ids=[number], text=f"<{number}>"))


STREAM = [Event(started=Started(execution_id="x")), *(token(i) for i in range(1, 30)), Event(finished=StreamFinished())]


def item(first: int, events: list[Event]) -> FrameItem:
    data = b"".join(journal.encode(event) for event in events)
    return FrameItem(execution_id="x", first_event=first, event_count=len(events), events=data)


def test_events_are_split_as_the_journal_joins_them() -> None:
    assert split_events(item(0, STREAM).events) == STREAM
    assert split_events(b"") == []


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 8)), max_size=40), st.integers(0, 30), st.integers(1, 40))
@example(cuts=[(0, 1), (1, 3), (0, 1)], begin=0, capacity=1)
def test_any_frames_with_repair(cuts: list[tuple[int, int]], begin: int, capacity: int) -> None:
    """Frames overlap, repeat, come late or never; the journal fills what is missing."""
    listener = Listener("x", begin, capacity)
    taken: list[Event] = []
    largest = max((count for _, count in cuts), default=0)
    for first, count in cuts:
        events = STREAM[first : first + count]
        listener.push(item(first, events))
        # A frame is taken whole where there is room for its first event.
        assert listener.expected - listener.position < capacity + largest
        if first % 3 == 0:
            before = listener.position
            got = listener.take()
            assert listener.position == before + len(got)
            taken += got
    listener.published(len(STREAM))
    taken += listener.take()
    if listener.behind:
        listener.fill(listener.expected, STREAM[listener.expected :], len(STREAM))
        taken += listener.take()
    assert taken == STREAM[begin:]
    assert listener.position == len(STREAM)
    assert not listener.behind
    assert listener.ended == bool(taken)


def test_a_result_that_is_too_large_for_a_frame_is_fetched() -> None:
    listener = Listener("x", 0, 8)
    listener.push(FrameItem(execution_id="x", first_event=0, event_count=3, terminal=True))
    assert listener.behind
    assert listener.take() == []


def test_a_fill_is_never_refused_for_its_size() -> None:
    listener = Listener("x", 0, 2)
    listener.fill(0, STREAM, len(STREAM))
    assert listener.take() == STREAM


async def test_a_failure_comes_after_what_is_here() -> None:
    listener = Listener("x", 0, 8)
    listener.push(item(0, STREAM[:2]))
    listener.fail(errors.draining())
    assert await listener.wait()
    assert listener.take() == STREAM[:2]
    with pytest.raises(errors.ServiceError):
        await listener.wait()


async def test_a_heartbeat_is_due_only_in_silence() -> None:
    listener = Listener("x", 0, 8)
    listener.beat()
    assert not await listener.wait()
    listener.beat()
    listener.push(item(0, STREAM[:1]))
    assert await listener.wait()
    listener.take()
    waiting = asyncio.ensure_future(listener.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    listener.push(item(1, STREAM[1:2]))
    assert await waiting


def test_after_a_restart_events_are_taken_from_where_the_reader_is() -> None:
    listener = Listener("x", 0, 8)
    listener.push(item(0, STREAM[:3]))
    assert len(listener.take()) == 3
    listener.push(item(5, STREAM[5:7]))
    listener.restart()
    assert not listener.behind
    listener.push(item(0, STREAM[:5]))
    assert listener.take() == STREAM[3:5]


@given(
    st.lists(st.one_of(st.integers(0, 2), st.just(None)), max_size=40),
    st.integers(0, 1000),
    st.booleans(),
)
def test_joined_messages_say_what_the_events_said(shape: list[int | None], first: int, fails: bool) -> None:
    """`shape`: the candidate of each delta, None for the end of a candidate."""
    events = [
        Event(candidate_finished=CandidateFinished()) if each is None else token(number, each)
        for number, each in enumerate(shape)
    ]
    if fails:
        events.append(Event(failed=Status(code=13)))
    messages = coalesce(first, events, "secret")
    expected = first
    for message in messages:
        assert message.first_event == expected
        expected += message.event_count
    assert expected == first + len(shape)
    for candidate in range(3):
        ids = [i for m in messages if m.delta.candidate == candidate for i in m.delta.token_ids]
        assert ids == [number for number, each in enumerate(shape) if each == candidate]
        text = "".join(m.delta.text for m in messages if m.delta.candidate == candidate)
        assert text == "".join(f"<{number}>" for number in ids)
    runs = sum(1 for i, each in enumerate(shape) if each is None or i == 0 or shape[i - 1] != each)
    assert len(messages) == runs
    assert (failure(events) is not None) == fails


def test_the_resume_token_is_filled_in_and_the_journal_left_alone() -> None:
    [message] = coalesce(0, STREAM[:1], "secret")
    assert message.started.resume_token == "secret"
    assert not STREAM[0].started.resume_token
    [message] = coalesce(1, STREAM[1:3], "secret")
    assert list(message.delta.token_ids) == [1, 2]
    assert list(STREAM[1].delta.token_ids) == [1]


def test_a_heartbeat_counts_no_event() -> None:
    message = heartbeat(7)
    assert (message.first_event, message.event_count) == (7, 0)
