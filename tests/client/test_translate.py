"""Translation through both clients and the command line, against the fake service."""

import asyncio
import io
import json
import shlex
import sys
from typing import Any

import pytest
from xlmstream import (
    AsyncClient,
    Client,
    FinishReason,
    Generation,
    InvalidInput,
    PoisonedInput,
    Started,
    StreamFinished,
    TextInput,
)
from xlmstream.cli import main
from xlmstream.testing import Failure, FakeServer
from xlmstream.v1.common_pb2 import DisconnectPolicy
from xlmstream.v1.generation_pb2 import EARLY_STOPPING_WHEN_FULL

ANSWERS = {"Bonjour": "Good day to you", "Le roi": "The king", "mal": Failure("POISONED_INPUT", "it cannot be")}
FRENCH = {"source_language": "fr", "target_language": "en"}


@pytest.fixture
def server() -> Any:
    with FakeServer(ANSWERS) as server:
        yield server


def test_one_text_gives_one_translation(clients: Any, server: FakeServer) -> None:
    found = clients.call(server.address, "translate", "Bonjour", **FRENCH, num_beams=4, early_stopping="when_full")
    assert isinstance(found, Generation)
    assert (found.text, found.finish_reason, found.candidates[0].score) == (
        "Good day to you",
        FinishReason.EOS,
        -1.0,
    )
    request: Any = server.requests[-1]
    assert (request.inputs[0].text, request.inputs[0].language, request.target_language) == ("Bonjour", "fr", "en")
    assert (request.parameters.num_beams, request.parameters.early_stopping) == (4, EARLY_STOPPING_WHEN_FULL)
    assert request.options.request_id, "a call sent again joins its first sending"


def test_a_text_may_bring_its_own_language(clients: Any, server: FakeServer) -> None:
    texts = ["Bonjour", TextInput(text="Le roi", language="es")]
    found = clients.call(server.address, "translate", texts, **FRENCH)
    assert [one.text for one in found] == ["Good day to you", "The king"]
    request: Any = server.requests[-1]
    assert [one.language for one in request.inputs] == ["fr", "es"]


def test_a_bad_text_fails_alone(clients: Any, server: FakeServer) -> None:
    found = clients.call(server.address, "translate", ["mal", "Bonjour"], **FRENCH, return_exceptions=True)
    assert isinstance(found[0], PoisonedInput)
    assert found[1].text == "Good day to you"
    with pytest.raises(PoisonedInput) as failed:
        clients.call(server.address, "translate", ["Bonjour", "mal"], **FRENCH)
    assert failed.value.input_index == 1


def test_a_stream_survives_a_break(clients: Any, server: FakeServer) -> None:
    server.break_streams(2)
    events, stream = clients.stream(server.address, "Bonjour", verb="translate_stream", **FRENCH, num_beams=2)
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], StreamFinished)
    assert stream.text == "Good day to you"
    kinds = [type(request).__name__ for request in server.requests]
    assert kinds == ["TranslateStreamRequest", "ResumeStreamRequest"]
    request: Any = server.requests[0]
    assert (request.target_language, request.input.language) == ("en", "fr")
    assert request.options.disconnect_policy == DisconnectPolicy.DISCONNECT_POLICY_DETACH
    assert stream._generation().candidates[0].score == -1.0


def test_a_stream_that_is_left_is_cancelled(clients: Any, server: FakeServer) -> None:
    server.hold(2)
    clients.stream(server.address, "Bonjour", verb="translate_stream", take=2, **FRENCH)
    assert [type(request).__name__ for request in server.requests] == ["TranslateStreamRequest", "CancelRequestRequest"]


def test_a_stream_sent_again_before_its_first_event_joins(clients: Any, server: FakeServer) -> None:
    server.break_streams(0)
    _, stream = clients.stream(server.address, "Bonjour", verb="translate_stream", **FRENCH)
    assert stream.text == "Good day to you"
    first, second = server.requests
    assert first == second


def test_map(server: FakeServer) -> None:
    with Client(server.address) as client, client.map("translate", ["Bonjour", "mal", "Le roi"], **FRENCH) as stream:
        found = list(stream)
    assert [one.result.text for one in found if one.error is None] == ["Good day to you", "The king"]
    assert isinstance(found[1].error, PoisonedInput)

    async def over_asyncio() -> list[str]:
        async with AsyncClient(server.address) as client:
            return [one.result.text async for one in client.map("translate", ["Le roi"], **FRENCH)]

    assert asyncio.run(over_asyncio()) == ["The king"]
    actions = [action for request in server.requests for action in getattr(request, "actions", ())]
    items = [action.item.translate for action in actions if action.HasField("item")]
    assert [(item.input.text, item.input.language, item.target_language) for item in items] == [
        ("Bonjour", "fr", "en"),
        ("mal", "fr", "en"),
        ("Le roi", "fr", "en"),
        ("Le roi", "fr", "en"),
    ]


def test_what_the_client_refuses(client: Client) -> None:
    with pytest.raises(InvalidInput) as wrong:
        client.translate("Bonjour", source_language="fr")  # type: ignore[call-overload]
    assert wrong.value.field_violations[0].field == "target_language"
    for unknown in ("language", "echo", "decoding_mode"):
        with pytest.raises(TypeError, match=unknown):
            client.translate("Bonjour", **FRENCH, **{unknown: "en"})  # type: ignore[call-overload]


@pytest.fixture
def xlmstream(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command line against the fake service; returns the exit code."""
    monkeypatch.setenv("XLMSTREAM_ADDRESS", server.address)
    return lambda line: main(shlex.split(line))


def test_one_text_of_the_command_line_is_streamed(
    xlmstream: Any, server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert xlmstream("translate --from fr --to en Bonjour --num-beams 3") == 0
    assert capsys.readouterr() == ("Good day to you\n", "")
    request: Any = server.requests[-1]
    assert type(request).__name__ == "TranslateStreamRequest"
    assert (request.input.language, request.target_language, request.parameters.num_beams) == ("fr", "en", 3)


def test_lines_are_mapped(
    xlmstream: Any, server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Bonjour\n\nmal\nLe roi\n"))
    assert xlmstream("translate --from fr --to en") != 0
    out, err = capsys.readouterr()
    assert out == "Good day to you\nThe king\n"
    assert err.startswith("xlmstream: input 2: it cannot be")


def test_json_has_every_candidate(xlmstream: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert xlmstream("translate --from fr --to en --json --num-beams 2 Bonjour") == 0
    line = json.loads(capsys.readouterr().out)
    assert (line["input"], line["text"], line["parameters"]["num_beams"]) == ("Bonjour", "Good day to you", 2)
    assert line["candidates"][0]["score"] == -1.0


def test_the_languages_must_be_given(xlmstream: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as wrong:
        xlmstream("translate Bonjour --to en")
    assert wrong.value.code == 2
    assert "--from" in capsys.readouterr().err
