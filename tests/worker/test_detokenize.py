"""Incremental detokenisation against the plain rule: join the pieces, strip, cut at the first stop string."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xlmstream_worker.detokenize import Detokenizer, PieceTexts

# Latin, accents composed and combining, CJK, kana, Arabic, emoji with joiner and skin tone, an astral letter.
ALPHABET = [
    "a",
    "b",
    "c",
    "é",
    "e\u0301",
    "ß",
    "日",
    "本",
    "か\u3099",
    "ع",
    "👩",
    "\u200d",
    "🏽",
    "𝒳",
    "<",
    "/w>",
    "\n",
]
PIECES = [*ALPHABET, *(f"{piece}</w>" for piece in ALPHABET), "ab", "ab</w>", "bc", "</w>", "abc</w>"]
SPECIAL = {0, 1, 2, 3, 4}
VOCABULARY = {"<s>": 0, "</s>": 1, "<pad>": 2, "<unk>": 3, "<special0>": 4} | {p: i + 5 for i, p in enumerate(PIECES)}
TEXTS = PieceTexts(VOCABULARY, SPECIAL)

token_lists = st.lists(st.integers(0, len(VOCABULARY) + 2), max_size=40)
stop_lists = st.lists(st.text(st.sampled_from("ab c日👩"), min_size=1, max_size=6), max_size=4)


def ids(*pieces: str) -> list[int]:
    return [VOCABULARY[piece] for piece in pieces]


def plain_text(token_ids: list[int]) -> str:
    by_id = {token_id: piece for piece, token_id in VOCABULARY.items()}
    words = [by_id[i] for i in token_ids if i in by_id and i not in SPECIAL]
    return "".join(f"{w[:-4]} " if w.endswith("</w>") else w for w in words)


def plain_stop(token_ids: list[int], stops: list[str], min_new_tokens: int) -> tuple[str, int | None]:
    """The text by brute force, and how many tokens it took to stop: try every prefix of the characters."""
    for count in range(1, len(token_ids) + 1):
        before, upto = plain_text(token_ids[: count - 1]), plain_text(token_ids[:count])
        for end in range(len(before) + 1, len(upto) + 1):
            ending = [stop for stop in stops if upto[:end].endswith(stop)]
            if ending and count >= min_new_tokens:
                return upto[: end - max(map(len, ending))].strip(" "), count
    return plain_text(token_ids).strip(" "), None


@given(token_lists)
def test_deltas_join_to_the_final_text(token_ids: list[int]) -> None:
    detokenizer = Detokenizer(TEXTS)
    deltas = [detokenizer.push(token_id) for token_id in token_ids]
    assert "".join(deltas) + detokenizer.finish() == plain_text(token_ids).strip(" ")


@given(token_lists, stop_lists, st.integers(0, 8))
def test_stop_strings_end_the_text_as_brute_force_does(token_ids: list[int], stops: list[str], minimum: int) -> None:
    detokenizer = Detokenizer(TEXTS, stops, minimum)
    text, stopped_after = "", None
    for count, token_id in enumerate(token_ids, 1):
        text += detokenizer.push(token_id)
        if detokenizer.stopped:
            stopped_after = count
            break
    else:
        text += detokenizer.finish()
    assert (text, stopped_after) == plain_stop(token_ids, stops, minimum)


@given(token_lists, stop_lists)
def test_text_is_held_back_no_longer_than_needed(token_ids: list[int], stops: list[str]) -> None:
    detokenizer = Detokenizer(TEXTS, stops)
    sent = ""
    for count, token_id in enumerate(token_ids, 1):
        sent += detokenizer.push(token_id)
        if detokenizer.stopped:
            return
        whole = plain_text(token_ids[:count])
        held = whole.lstrip(" ")[len(sent) :]
        # What is held is a proper prefix of a stop string, behind spaces that may turn out to be trailing ones.
        assert not held.strip(" ") or any(
            whole.endswith(stop[:n]) and not held[: len(held) - n].strip(" ")
            for stop in stops
            for n in range(1, len(stop))
        )


def test_a_word_is_sent_when_it_is_complete_and_its_space_with_the_next() -> None:
    detokenizer = Detokenizer(TEXTS)
    assert [detokenizer.push(i) for i in ids("a", "b</w>", "c</w>", "日")] == ["a", "b", " c", " 日"]
    assert detokenizer.finish() == ""


def test_stop_string_across_tokens_is_never_shown() -> None:
    detokenizer = Detokenizer(TEXTS, ["b c"])
    assert [detokenizer.push(i) for i in ids("a", "b</w>", "c")] == ["a", "", ""]
    assert detokenizer.stopped


def test_a_false_start_of_a_stop_string_is_shown_as_soon_as_it_is_one() -> None:
    detokenizer = Detokenizer(TEXTS, ["b c"])
    assert [detokenizer.push(i) for i in ids("a", "b</w>", "a")] == ["a", "", "b a"]


def test_a_stop_string_that_begins_again_within_itself() -> None:
    detokenizer = Detokenizer(TEXTS, ["aabaac"])
    text = "".join(detokenizer.push(i) for i in ids(*"aabaa", "日", *"baac", *"aabaabaa"))
    assert (text, detokenizer.stopped) == ("aabaa日baacaab", False)
    assert detokenizer.push(VOCABULARY["c"]) == ""
    assert detokenizer.stopped


def test_of_stop_strings_that_end_together_none_is_shown() -> None:
    detokenizer = Detokenizer(TEXTS, ["bc", "abc", "c"])
    assert [detokenizer.push(i) for i in ids("b", "a", "b", "c")] == ["", "b", "", ""]


def test_stop_string_before_min_new_tokens_is_text() -> None:
    detokenizer = Detokenizer(TEXTS, ["b"], min_new_tokens=3)
    assert [detokenizer.push(i) for i in ids("a", "b", "b")] == ["a", "b", ""]
    assert detokenizer.stopped


def test_nothing_follows_a_stop() -> None:
    detokenizer = Detokenizer(TEXTS, ["a"])
    detokenizer.push(VOCABULARY["a"])
    with pytest.raises(ValueError, match="stop string"):
        detokenizer.push(VOCABULARY["a"])
