import json
import logging
import sys

import pytest
from xlmstream_worker import observe


@pytest.fixture
def entry() -> logging.LogRecord:
    return logging.makeLogRecord(
        {"name": "w", "levelno": 20, "levelname": "INFO", "msg": "ended", "created": 1_000_000_000.25, "msecs": 250.0}
        | observe.fields(execution_id="00x", tokens=3)
    )


@pytest.fixture(autouse=True)
def restore_root(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", list(root.handlers))
    monkeypatch.setattr(root, "level", root.level)


def formatted(form: str, entry: logging.LogRecord) -> str:
    observe.set_up("info", form)
    (handler,) = logging.getLogger().handlers
    assert handler.stream is sys.stderr
    return handler.format(entry)


def test_text(entry: logging.LogRecord) -> None:
    assert formatted("text", entry) == "2001-09-09T01:46:40.250Z info    ended execution_id=00x tokens=3"


def test_json(entry: logging.LogRecord) -> None:
    assert json.loads(formatted("json", entry)) == {
        "time": "2001-09-09T01:46:40.250Z",
        "level": "info",
        "logger": "w",
        "event": "ended",
        "execution_id": "00x",
        "tokens": 3,
    }


def test_an_exception_is_told_without_its_message() -> None:
    try:
        int("what the client wrote")
    except ValueError as error:
        told = observe.where(error)
    assert told.startswith("ValueError at ")
    assert "test_observe.py:" in told
    assert "client" not in told
