"""Uploads and results of jobs over connections that break: every item once, every result once, little kept."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import count
from typing import Any

import grpc
import pytest
from client.conftest import FAST
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from xlmstream import (
    AsyncClient,
    Cancelled,
    ChecksumMismatch,
    Client,
    JobItem,
    MessageTooLarge,
    QuotaExceeded,
    Unavailable,
    UploadGap,
)
from xlmstream.jobs import uploading
from xlmstream.jobs.asyncio_upload import _outcome as outcome_of
from xlmstream.jobs.uploading import UploadState
from xlmstream.jobs.values import JOB_TASKS
from xlmstream.testing import Failure, FakeServer
from xlmstream.v1 import job_pb2
from xlmstream.v1.jobs_pb2 import UploadJobItemsRequest

EMBED = JOB_TASKS["embed"][1]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    """Calls of about 100 short items, messages of about 10: what takes MiB takes KiB."""
    monkeypatch.setattr(uploading, "MESSAGE_BYTES", 200)
    monkeypatch.setattr(uploading, "CALL_BYTES", 2000)
    with FakeServer() as server:
        yield server


def upload(clients: Any, server: FakeServer, items: Any, **keywords: Any) -> int:
    """What `upload` returns for a new job, or for the one called "j"."""
    if clients is not None and clients.is_blocking:
        with Client(server.address, retry=FAST) as client:
            return client.jobs.create("embed", job_id="j").upload(items, **keywords)

    async def run() -> int:
        async with AsyncClient(server.address, retry=FAST) as client:
            return await (await client.jobs.create("embed", job_id="j")).upload(items, **keywords)

    return asyncio.run(run())


def read(clients: Any, server: FakeServer, **keywords: Any) -> list[tuple[int, int]]:
    """Index and attempt of the results of "j"."""
    if clients.is_blocking:
        with Client(server.address, retry=FAST) as client:
            return [(one.index, one.attempt) for one in client.jobs.get("j").results(**keywords)]

    async def run() -> list[tuple[int, int]]:
        async with AsyncClient(server.address, retry=FAST) as client:
            job = await client.jobs.get("j")
            return [(one.index, one.attempt) async for one in job.results(**keywords)]

    return asyncio.run(run())


def texts(server: FakeServer) -> list[str]:
    return [item.embed.text for item in server.jobs["j"].items]


def given_texts(number: int) -> list[str]:
    return [f"this is text {index}" for index in range(number)]


@pytest.mark.parametrize("once", [True, False], ids=["iterator", "list"])
def test_an_upload_that_breaks_at_any_message_goes_on(clients: Any, server: FakeServer, once: bool) -> None:
    wanted = given_texts(1000)
    for breaks in (0, 1, 3, 8, 0, 0, 5, 2, 99):
        server.fail(Failure(), method="UploadJobItems", after_messages=breaks)
    commits: list[int] = []
    assert upload(clients, server, iter(wanted) if once else wanted, on_commit=commits.append) == 1000
    assert texts(server) == wanted
    assert commits == sorted(set(commits))
    assert commits[-1] == 1000


def test_an_async_iterator_is_taken_as_well(server: FakeServer) -> None:
    async def slowly() -> AsyncIterator[JobItem]:
        for index in range(300):
            await asyncio.sleep(0)
            yield JobItem(f"k{index}", f"this is text {index}")

    server.fail(Failure(), method="UploadJobItems", after_messages=4)
    assert upload(None, server, slowly()) == 300
    assert texts(server) == given_texts(300)
    assert [item.key for item in server.jobs["j"].items] == [f"k{index}" for index in range(300)]


def test_other_tasks_have_their_turn_while_items_are_at_hand(server: FakeServer) -> None:
    async def run() -> int:
        turns = 0

        async def tick() -> None:
            nonlocal turns
            for _ in count():
                await asyncio.sleep(0)
                turns += 1

        async with AsyncClient(server.address) as client:
            ticking = asyncio.create_task(tick())
            await (await client.jobs.create("embed", job_id="j")).upload(given_texts(2000))
            ticking.cancel()
        return turns

    assert asyncio.run(run()) > 2000 / 64


@pytest.mark.parametrize("kind", [ChecksumMismatch, UploadGap])
def test_what_arrives_damaged_is_sent_again(clients: Any, server: FakeServer, kind: type[Exception]) -> None:
    reason = {ChecksumMismatch: "CHECKSUM_MISMATCH", UploadGap: "UPLOAD_GAP"}[kind]
    server.fail(Failure(reason), method="UploadJobItems", after_messages=2)
    assert upload(clients, server, given_texts(50)) == 50
    assert texts(server) == given_texts(50)
    for _ in range(FAST.max_attempts):
        server.fail(Failure(reason), method="UploadJobItems")
    with pytest.raises(kind):
        upload(clients, server, given_texts(60))


def test_what_cannot_be_mended_is_raised(clients: Any, server: FakeServer) -> None:
    server.fail(Failure("QUOTA_EXCEEDED"), method="UploadJobItems")
    with pytest.raises(QuotaExceeded):
        upload(clients, server, given_texts(50))
    for _ in range(FAST.max_attempts):
        server.fail(Failure(), method="UploadJobItems")
    with pytest.raises(Unavailable):
        upload(clients, server, given_texts(50))


def test_a_call_that_ended_while_it_was_written_to_is_a_broken_connection() -> None:
    async def ended() -> None:
        raise grpc.aio.AioRpcError(
            grpc.StatusCode.INTERNAL, grpc.aio.Metadata(), grpc.aio.Metadata(), "Internal error from Core"
        )

    error = asyncio.run(outcome_of(ended()))
    assert isinstance(error, Unavailable)
    assert error.retryable


def test_messages_that_are_too_large_are_split(clients: Any, server: FakeServer) -> None:
    for limit in (120, 60):
        failure = Failure("MESSAGE_TOO_LARGE", metadata={"bytes": "200", "max": str(limit)})
        server.fail(failure, method="UploadJobItems", after_messages=1)
    assert upload(clients, server, given_texts(50)) == 50
    assert texts(server) == given_texts(50)
    server.fail(Failure("MESSAGE_TOO_LARGE", metadata={"max": "10"}), method="UploadJobItems")
    with pytest.raises(MessageTooLarge):
        upload(clients, server, given_texts(60))


class Loss(Iterable[str]):
    """Texts that can be read again; when one is reached, the service loses some that it had."""

    def __init__(self, server: FakeServer, number: int) -> None:
        self.server = server
        self.number = number
        self.readings = 0

    def __iter__(self) -> Iterator[str]:
        self.readings += 1
        for index, text in enumerate(given_texts(self.number)):
            if index == self.number - 1 and self.readings == 1:
                with self.server.changed:
                    assert self.server.changed.wait_for(lambda: len(self.server.jobs["j"].items) > 300, timeout=60)
                    del self.server.jobs["j"].items[100:]
                    self.server.jobs["j"].info.items_committed = 100
            yield text


def test_what_the_service_lost_is_read_again(clients: Any, server: FakeServer) -> None:
    server.hold_jobs()
    given_again = Loss(server, 900)
    assert upload(clients, server, given_again) == 900
    assert given_again.readings == 2
    assert texts(server) == given_texts(900)


def test_what_the_service_lost_and_cannot_be_read_again_is_told(clients: Any, server: FakeServer) -> None:
    server.hold_jobs()
    with pytest.raises(UploadGap, match="something that can be read again") as told:
        upload(clients, server, iter(Loss(server, 900)))
    assert told.value.items_committed == 100


def test_an_error_of_the_source_ends_the_upload_and_what_was_sent_stays(clients: Any, server: FakeServer) -> None:
    def failing() -> Iterator[str]:
        yield from given_texts(500)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        upload(clients, server, failing())
    assert upload(clients, server, given_texts(600)) == 600
    assert texts(server) == given_texts(600)


def test_items_of_a_slow_source_do_not_wait(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploading, "LINGER_S", 0.0)

    def slowly() -> Iterator[str]:
        for index, text in enumerate(given_texts(5)):
            with server.changed:
                known = server.jobs["j"]
                assert server.changed.wait_for(lambda: len(known.items) >= index - 3, timeout=60)  # noqa: B023
            yield text

    with Client(server.address) as client:
        assert client.jobs.create("embed", job_id="j").upload(slowly()) == 5


def test_closing_the_client_ends_an_upload(server: FakeServer) -> None:
    client = Client(server.address, retry=FAST)
    job = client.jobs.create("embed", job_id="j")

    def endless() -> Iterator[str]:
        for index in count():
            if index == 500:
                threading.Thread(target=client.close).start()
            yield f"this is text {index}"

    with pytest.raises((Cancelled, RuntimeError)):  # the call in progress, or the next
        job.upload(endless())


@pytest.mark.parametrize("order", ["input", "completion"])
def test_results_over_connections_that_break(clients: Any, server: FakeServer, order: str) -> None:
    upload(clients, server, given_texts(550))
    with Client(server.address) as client:
        client.jobs.get("j").seal()
    for breaks in (0, 2, 1, 0, 1):
        server.fail(Failure(), method="StreamJobResults", after_messages=breaks)
    assert read(clients, server, order=order) == [(index, 1) for index in range(550)]


def test_results_are_continued_from_a_cursor(server: FakeServer) -> None:
    with Client(server.address) as client:
        job = client.jobs.create("embed", job_id="j")
        job.upload(given_texts(550))
        found: list[int] = []
        with job.results(follow=False) as results:
            for result in results:
                found.append(result.index)
                if len(found) > 150 and results.buffered == 0:
                    break
            cursor = results.cursor
        found += [result.index for result in client.jobs.get("j").results(follow=False, cursor=cursor)]
    assert found == list(range(550))


class Service:
    """What the service does with the messages of an upload."""

    def __init__(self) -> None:
        self.items: list[str] = []

    def take(self, messages: list[UploadJobItemsRequest]) -> None:
        for message in messages:
            if message.HasField("chunk"):
                assert message.chunk.first_index <= len(self.items), "a gap"
                new = message.chunk.items[len(self.items) - message.chunk.first_index :]
                self.items += [job_pb2.JobItem.FromString(item).embed.text for item in new]


@settings(max_examples=examples(100), deadline=None)
@given(
    number=st.integers(0, 120),
    stored=st.integers(0, 30),
    steps=st.lists(st.tuples(st.integers(0, 15), st.integers(0, 40), st.integers(0, 5)), max_size=60),
)
def test_whatever_breaks_every_item_arrives_once(number: int, stored: int, steps: list[tuple[int, int, int]]) -> None:
    """Items read, messages that arrive of a call, items that the service then loses: any of them, in any order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uploading, "CALL_BYTES", 300)
        patch.setattr(uploading, "MESSAGE_BYTES", 60)
        wanted = given_texts(number)
        service = Service()
        service.items = wanted[:stored]
        state = UploadState("j", EMBED, {}, 0, now=lambda: 0.0)
        state.committed(len(service.items))
        for reads, arriving, lost in [*steps, *[(number, 1000, 0)] * (number + 2)]:
            for _ in range(reads):
                if state.next_index < number and not state.full:
                    state.add(wanted[state.next_index])
            assert sum(map(len, state._kept)) == state._kept_bytes < 2 * 300 + 40
            if not state.idle:
                service.take(state.next_call()[:arriving])
            del service.items[max(0, len(service.items) - lost) :]
            if not state.committed(len(service.items)):
                state.restart()
                assert state.committed(len(service.items))
        assert state.idle
        assert service.items == wanted
