"""What the log tells of an exception: its kind and its way, never what it quotes."""

from __future__ import annotations

import json
import logging
import sys

import pytest
from xlmstream_server.observe.logs import JsonFormatter, TextFormatter

TEXT = "a private text"


def fail(text: str) -> None:
    try:
        int(text)
    except ValueError as cause:
        raise KeyError(text) from cause


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_an_exception_is_told_without_its_message(formatter: logging.Formatter) -> None:
    try:
        fail(TEXT)
    except KeyError:
        record = logging.LogRecord("x", logging.ERROR, __file__, 1, "a defect", None, sys.exc_info())
    told = formatter.format(record)
    assert "private" not in told
    assert "a defect" in told
    assert told.index("ValueError") < told.index("KeyError")
    assert "in fail" in told
    if isinstance(formatter, JsonFormatter):
        assert json.loads(told)["traceback"].endswith("KeyError")


def test_what_is_no_exception_has_no_traceback() -> None:
    record = logging.LogRecord("x", logging.INFO, __file__, 1, "fine", None, None)
    assert "traceback" not in json.loads(JsonFormatter().format(record))
