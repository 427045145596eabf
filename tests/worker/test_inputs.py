"""The part of a far too long text that can matter."""

from __future__ import annotations

import pytest
from xlmstream.v1.common_pb2 import TRUNCATION_KEEP_END, TRUNCATION_KEEP_START, TRUNCATION_UNSPECIFIED, TextInput
from xlmstream_worker.tasks.inputs import relevant_part


@pytest.mark.parametrize(
    ("text", "truncation", "expected"),
    [
        ("one two three", TRUNCATION_UNSPECIFIED, "one"),
        ("one two three", TRUNCATION_KEEP_START, "one"),
        ("one two three", TRUNCATION_KEEP_END, "three"),
        ("         one two three", TRUNCATION_UNSPECIFIED, "one"),
        ("one two three         ", TRUNCATION_KEEP_END, "three"),
        ("太初有道道與神同在", TRUNCATION_KEEP_START, "太初有道道與"),
        ("太初有道道與神同在", TRUNCATION_KEEP_END, "道道與神同在"),
    ],
)
def test_the_end_that_is_kept_is_the_one_that_matters(text: str, truncation: int, expected: str) -> None:
    """Cut between words where there are any: of those at the cut nothing is known."""
    part, whole = relevant_part(TextInput(text=text, allow_special_tokens=True), 6, truncation)
    assert part == TextInput(text=expected, allow_special_tokens=True)
    assert not whole


def test_what_is_short_enough_stays_whole() -> None:
    given = TextInput(text="one two", language="en")
    assert relevant_part(given, 7, TRUNCATION_KEEP_END) == (given, True)
    spaced = TextInput(text=" " * 9 + "one two")
    assert relevant_part(spaced, 7, TRUNCATION_UNSPECIFIED) == (spaced, True)
