"""Special and added tokens: what they are, and the roles that special ones play."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xlmstream_worker.xlm.vocabulary import Vocabulary

DEFAULT_ADDITIONAL_SPECIAL_TOKENS = tuple(f"<special{index}>" for index in range(10))


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token that is found in the text as it is, before words are cut.

    Attributes:
        content: its text.
        single_word: leave it alone unless spaces or the ends of the text surround it.
        lstrip: it swallows the white space before it.
        rstrip: it swallows the white space after it.
        special: it carries meaning rather than text; decoding may skip it.
        normalized: it is matched after lower-casing (uncased models). Default: not special.
    """

    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    special: bool = False
    normalized: bool | None = None

    def __post_init__(self) -> None:
        if self.normalized is None:
            object.__setattr__(self, "normalized", not self.special)

    def __str__(self) -> str:
        return self.content


class Role:
    """The token that plays a role, as text; assigning does not add it to the vocabulary."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._role = name

    def __get__(self, vocabulary: Vocabulary, owner: type) -> str | None:
        token = vocabulary.roles[self._role]
        return None if token is None else str(token)

    def __set__(self, vocabulary: Vocabulary, token: str | AddedToken | None) -> None:
        vocabulary.assign_role(self._role, token)


class RoleId:
    """The id of the token that plays a role; None where nothing plays it."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._role = name.removesuffix("_id")

    def __get__(self, vocabulary: Vocabulary, owner: type) -> int | None:
        token = vocabulary.roles[self._role]
        return None if token is None else vocabulary.convert_tokens_to_ids(str(token))

    def __set__(self, vocabulary: Vocabulary, index: int | None) -> None:
        vocabulary.assign_role(self._role, None if index is None else vocabulary.convert_ids_to_tokens(index))
