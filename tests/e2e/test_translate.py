"""Translation through the whole service, by a model that knows a toy text by heart: what it says is right or wrong."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.service import Service, until
from worker.toy_translator import LONGEST, PAIRS, parallel_text
from xlmstream import AsyncClient, Client, DeadlineExceeded, FinishReason, InvalidInput, TextInput, TokenDelta
from xlmstream.cli import main

TEXTS = [(text[source], source, target, text[target]) for text in parallel_text() for source, target in PAIRS]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, translator_directory: Path) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("translation"), translator_directory)
    yield service
    service.close()


@pytest.fixture
def service(running: Service) -> Iterator[Service]:
    yield running
    running.end_workers()


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with Client(service.address, timeout_s=60) as client:
        yield client


def test_every_text_in_every_direction(service: Service, client: Client) -> None:
    """Streamed at once, mapped, and in one call with beams: perfect each time."""
    service.worker(slots=8)
    service.wait_serving()

    async def streamed() -> list[str]:
        async with AsyncClient(service.address, timeout_s=60) as other:

            async def one(text: str, source: str, target: str) -> str:
                async with other.translate_stream(text, source_language=source, target_language=target) as stream:
                    return "".join([piece async for piece in stream.text_deltas()])

            return await asyncio.gather(*(one(text, source, target) for text, source, target, _ in TEXTS))

    assert asyncio.run(streamed()) == [right for *_, right in TEXTS]
    for source, target in PAIRS:
        texts = [text[source] for text in parallel_text()]
        rights = [text[target] for text in parallel_text()]
        with client.map("translate", texts, source_language=source, target_language=target) as stream:
            assert [mapped.result.text for mapped in stream] == rights
        keywords = {"num_beams": 3, "num_return_sequences": 2}
        found = client.translate(texts, source_language=source, target_language=target, **keywords)
        assert [one.text for one in found] == rights
        assert all(one.candidates[0].score > one.candidates[1].score for one in found)
    service.wait_clean()


def test_the_text_grows_word_by_word(service: Service, client: Client) -> None:
    service.worker()
    service.wait_serving()
    with client.translate_stream(LONGEST["de"], source_language="de", target_language="fr") as stream:
        pieces = [event.text for event in stream if isinstance(event, TokenDelta)]
    assert "".join(pieces) == LONGEST["fr"] == stream.text
    assert len([piece for piece in pieces if piece]) > 5
    assert stream.finish_reason is FinishReason.EOS
    assert stream.end is not None
    assert stream.end.usage.completion_tokens == len(stream.token_ids)


def test_killing_a_worker_in_the_middle(service: Service, client: Client) -> None:
    """Another one goes on behind the words that were sent, with the source read anew: the text is whole and right."""
    doomed = service.worker(lease_s=1.5, step_ms=40)
    service.wait_serving()
    with client.translate_stream(LONGEST["en"], source_language="en", target_language="de") as stream:
        events = iter(stream)
        while len(stream.token_ids) < 8:
            next(events)
        sent = stream.text
        service.worker(lease_s=1.5, step_ms=5)
        doomed.kill()
        result = stream.result()
    assert result.text == LONGEST["de"]
    assert result.text.startswith(sent)
    assert result.finish_reason is FinishReason.EOS
    assert result.usage.completion_tokens == len(result.token_ids)
    service.wait_clean()


def test_killing_workers_under_many_translations(service: Service) -> None:
    doomed = service.worker(lease_s=1.5, step_ms=15, slots=8)
    service.worker(lease_s=1.5, step_ms=15, slots=8)
    service.wait_serving()

    async def all_of_them() -> list[str]:
        async with AsyncClient(service.address, timeout_s=60) as other:
            texts = [text for text in TEXTS if len(text[0]) > 60]

            async def one(number: int, text: str, source: str, target: str) -> str:
                async with other.translate_stream(
                    text, source_language=source, target_language=target, num_beams=2 if number % 5 == 0 else None
                ) as stream:
                    async for _ in stream:
                        if number == 1 and len(stream.token_ids) == 6 and doomed.alive:
                            doomed.signal(signal.SIGKILL)
                    return stream.text

            found = await asyncio.gather(*(one(n, *text[:3]) for n, text in enumerate(texts)))
            assert found == [right for *_, right in texts]
            return found

    assert len(asyncio.run(all_of_them())) == 24
    assert not doomed.alive
    service.wait_clean()


def test_leaving_a_stream_frees_its_slot(service: Service, client: Client) -> None:
    worker = service.worker(slots=1, step_ms=40)
    service.wait_serving()
    with client.translate_stream(LONGEST["en"], source_language="en", target_language="fr") as stream:
        while len(stream.token_ids) < 3:
            next(iter(stream))
    short = parallel_text()[0]
    assert client.translate(short["en"], source_language="en", target_language="fr").text == short["fr"]
    service.wait_clean()
    ends = [entry for entry in worker.entries() if entry["event"] in ("ended", "stopped")]
    assert [entry["event"] for entry in ends] == ["stopped", "ended"]


def test_a_deadline_in_the_middle(service: Service, client: Client) -> None:
    service.worker(slots=1, step_ms=150)
    service.wait_serving()
    with (
        pytest.raises(DeadlineExceeded),
        client.translate_stream(LONGEST["en"], source_language="en", target_language="fr", timeout_s=3) as stream,
    ):
        for _ in stream:
            pass
    assert 0 < len(stream.text) < len(LONGEST["fr"])
    assert LONGEST["fr"].startswith(stream.text)
    service.wait_clean()


def test_another_process_takes_a_stream_up(service: Service, client: Client) -> None:
    service.worker(step_ms=20)
    service.wait_serving()
    asked = {"source_language": "fr", "target_language": "en"}
    with client.translate_stream(LONGEST["fr"], **asked) as stream:
        while len(stream.token_ids) < 5:
            next(iter(stream))
        sent = stream.text
        assert stream.resume_token is not None
        with Client(service.address) as other, other.resume_stream(stream.resume_token, stream.next_event) as rest:
            assert sent + "".join(rest.text_deltas()) == LONGEST["en"]


def test_what_cannot_be_translated(service: Service, client: Client) -> None:
    service.worker()
    service.wait_serving()
    with pytest.raises(InvalidInput) as wrong:
        client.translate("the king", source_language="en", target_language="xx")
    assert "supported: de, en, fr" in wrong.value.message
    with pytest.raises(InvalidInput) as wrong:
        client.translate("the king", source_language="en", target_language="en")
    assert wrong.value.field_violations[0].field == "inputs[0].language"
    outcomes = client.translate(
        ["the king " * 60, parallel_text()[0]["en"]],
        source_language="en",
        target_language="de",
        return_exceptions=True,
    )
    assert getattr(outcomes[0], "reason", "") == "INPUT_TOO_LONG"
    assert getattr(outcomes[1], "text", "") == parallel_text()[0]["de"]


def test_the_command_line(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    service.worker()
    service.wait_serving()
    short = parallel_text()[1]
    assert main(["translate", "--address", service.address, "--from", "en", "--to", "de", short["en"]]) == 0
    assert capsys.readouterr().out == short["de"] + "\n"
    texts = [text["fr"] for text in parallel_text()]
    assert main(["translate", "--address", service.address, "--from", "fr", "--to", "en", *texts]) == 0
    assert capsys.readouterr().out.splitlines() == [text["en"] for text in parallel_text()]


def test_a_job_survives_its_worker(service: Service, client: Client) -> None:
    """Items that name their language and items that do not; bad ones fail alone; a worker dies in the middle."""
    doomed = service.worker(lease_s=1.5, step_ms=15, slots=8)
    service.wait_serving()
    texts = [text for text in TEXTS if text[2] == "fr"] * 4
    with pytest.raises(TypeError, match="give it to upload as language"):
        client.jobs.create("translate", target_language="fr", source_language="en")
    job = client.jobs.create("translate", target_language="fr", num_beams=2, num_return_sequences=2)
    items = [TextInput(text=text, language=source) for text, source, _, _ in texts]
    job.upload([*items, "un enfant", TextInput(text=" ", language="en")], language="fr")
    job.seal()
    until(lambda: job.refresh().info.counts.succeeded > 0, "a first result")
    doomed.kill()
    service.worker(lease_s=1.5, slots=8)
    results = list(job.results())
    assert [one.result.text for one in results[:-2]] == [right for *_, right in texts]
    assert all(one.result.candidates[0].score is not None for one in results[:-2])
    errors = [getattr(one.error, "field_violations", [None])[0] for one in results[-2:]]
    assert [error and error.field for error in errors] == ["inputs[0].language", "inputs[0].text"]
    service.wait_clean()


def test_a_draining_worker_hands_its_translations_over(service: Service, client: Client) -> None:
    leaving = service.worker("--drain-grace-s", "0.1", step_ms=40)
    service.wait_serving()
    with client.translate_stream(LONGEST["en"], source_language="en", target_language="fr") as stream:
        while len(stream.token_ids) < 5:
            next(iter(stream))
        service.worker(step_ms=5)
        leaving.signal(signal.SIGTERM)
        assert stream.result().text == LONGEST["fr"]
    until(lambda: not leaving.alive, "the end of a drained worker")
    service.wait_clean()
