"""The bytes of chunks and the packing of commands: in blocks, as by hand."""

from __future__ import annotations

import hiredis
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from xlmstream_server.broker import job_wire
from xlmstream_server.broker.channel import COPIED_BYTES, packed


@settings(max_examples=examples(100))
@given(
    items=st.lists(st.binary(max_size=300), max_size=60),
    costs=st.lists(st.integers(0, 400), min_size=60, max_size=60),
    most=st.tuples(st.integers(1, 20), st.integers(1, 2000), st.integers(1, 1000)),
)
def test_items_are_cut_within_bounds_and_nothing_is_lost(
    items: list[bytes], costs: list[int], most: tuple[int, int, int]
) -> None:
    """The cut in blocks against the rules, item by item."""
    most_items, most_bytes, most_tokens = most
    chunks = job_wire.cut(
        items, costs[: len(items)], most_items=most_items, most_bytes=most_bytes, most_tokens=most_tokens
    )
    assert [one for _, _, field in chunks for one in job_wire.split(field)] == items
    at = 0
    for number, tokens, field in chunks:
        own = costs[at : at + number]
        assert (tokens, number) == (sum(own), len(job_wire.split(field)))
        assert 1 <= number <= most_items
        assert number == 1 or (len(field) <= most_bytes and tokens <= most_tokens)
        at += number
        if at < len(items):  # the next item did not fit
            heads = 6 * (number + 1)
            full = len(field) + len(items[at]) + heads > most_bytes or tokens + costs[at] > most_tokens
            assert number == most_items or full


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_items_and_results_are_stored_as_a_field_of_messages(messages: list[bytes]) -> None:
    plain = b"".join(b"\x0a" + varint(len(one)) + one for one in messages)
    assert job_wire.join(messages) == plain
    assert job_wire.split(plain) == messages


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


@given(
    st.lists(st.one_of(st.binary(max_size=20), st.text(max_size=20), st.integers()), min_size=1, max_size=6),
    st.integers(0, 6),
)
def test_commands_with_large_arguments_say_the_same(command: list[bytes | str | int], place: int) -> None:
    command.insert(place, b"x" * (COPIED_BYTES + 1))
    assert b"".join(packed(tuple(command))) == hiredis.pack_command(tuple(command))
