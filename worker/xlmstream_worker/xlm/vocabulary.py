"""Tokens and ids: the base vocabulary, the special tokens and their roles, tokens added later.

Knows nothing of text: how text becomes tokens is the tokenizer's business.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import repeat
from typing import overload

from xlmstream_worker.xlm.special_tokens import AddedToken, Role, RoleId


class Vocabulary:
    """Converts tokens to ids and back.

    Args:
        encoder: the base vocabulary, token to id.
        roles: role name (`bos_token`, ...) to token or None.
        additional_special_tokens: special tokens without a role.
        added_tokens: tokens with the ids they were saved under.
        lowercase: lower-case the text of added tokens that are not special (uncased models).

    Special tokens that the base vocabulary lacks get the next free ids.
    """

    ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

    bos_token = Role()
    eos_token = Role()
    unk_token = Role()
    sep_token = Role()
    pad_token = Role()
    cls_token = Role()
    mask_token = Role()
    bos_token_id = RoleId()
    eos_token_id = RoleId()
    unk_token_id = RoleId()
    sep_token_id = RoleId()
    pad_token_id = RoleId()
    cls_token_id = RoleId()
    mask_token_id = RoleId()

    def __init__(
        self,
        encoder: dict[str, int],
        roles: Mapping[str, str | AddedToken | None],
        additional_special_tokens: Sequence[str | AddedToken],
        added_tokens: Mapping[int, AddedToken],
        lowercase: bool,
    ) -> None:
        self.encoder = encoder
        self.decoder = {index: token for token, index in encoder.items()}
        self.roles: dict[str, str | AddedToken | None] = {role: roles.get(role) for role in self.ROLES}
        self._additional: list[str | AddedToken] = list(additional_special_tokens)
        self._lowercase = lowercase
        self._added_tokens_decoder: dict[int, AddedToken] = dict(added_tokens)
        self._added_tokens_encoder = {str(token): index for index, token in added_tokens.items()}
        self._add([token for token in self._special_tokens() if str(token) not in self._added_tokens_encoder], True)

    # Sizes and views

    @property
    def vocab_size(self) -> int:
        """The number of tokens of the base vocabulary, without added ones."""
        return len(self.encoder)

    def __len__(self) -> int:
        """The number of tokens, added ones included."""
        return len(self.get_vocab())

    def get_vocab(self) -> dict[str, int]:
        """Token to id, added ones included."""
        return self.encoder | self._added_tokens_encoder

    def get_added_vocab(self) -> dict[str, int]:
        """Token to id for special and added tokens (also where the base vocabulary has them)."""
        return dict(self._added_tokens_encoder)

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """Id to token for special and added tokens, by id."""
        return dict(sorted(self._added_tokens_decoder.items()))

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """Token to id for special and added tokens, by id."""
        return {str(token): index for index, token in self.added_tokens_decoder.items()}

    # Special tokens

    @property
    def additional_special_tokens(self) -> list[str]:
        """Special tokens beside those with a role (or as well as)."""
        return [str(token) for token in self._additional]

    @additional_special_tokens.setter
    def additional_special_tokens(self, tokens: Sequence[str | AddedToken]) -> None:
        self._additional = list(tokens)
        self._vocabulary_changed()

    @property
    def additional_special_tokens_ids(self) -> list[int]:
        """Their ids."""
        return self.convert_tokens_to_ids(self.additional_special_tokens)

    @property
    def special_tokens_map(self) -> dict[str, str | list[str]]:
        """Role to token, for the roles that are played, and the additional special tokens."""
        return {
            key: list(map(str, value)) if isinstance(value, list) else str(value)
            for key, value in self.special_tokens_map_extended.items()
        }

    @property
    def special_tokens_map_extended(self) -> dict[str, str | AddedToken | list[str | AddedToken]]:
        """As `special_tokens_map`, with the `AddedToken` objects where such were given."""
        roles: dict[str, str | AddedToken | list[str | AddedToken]] = {
            role: token for role, token in self.roles.items() if token is not None
        }
        return roles | ({"additional_special_tokens": list(self._additional)} if self._additional else {})

    @property
    def all_special_tokens(self) -> list[str]:
        """Every special token once, those with a role first."""
        return [str(token) for token in self._special_tokens()]

    @property
    def all_special_ids(self) -> list[int]:
        """Their ids, in the same order."""
        return self.convert_tokens_to_ids(self.all_special_tokens)

    def _special_tokens(self) -> list[str | AddedToken]:
        unique: dict[str, str | AddedToken] = {}
        for token in (*self.roles.values(), *self._additional):
            if token is not None:
                unique.setdefault(str(token), token)
        return list(unique.values())

    def role_id(self, role: str) -> int:
        """The id of the token that plays `role`.

        Raises:
            ValueError: none does.
        """
        token = self.roles[role]
        if token is None:
            raise ValueError(f"no {role} is set")
        return self.convert_tokens_to_ids(str(token))

    def assign_role(self, role: str, token: str | AddedToken | None) -> None:
        """Let a token (or none) play a role; it is not added to the vocabulary (`add_special_tokens` does)."""
        self.roles[role] = token
        self._vocabulary_changed()

    # Growing

    def add_tokens(
        self, new_tokens: str | AddedToken | Iterable[str | AddedToken], special_tokens: bool = False
    ) -> int:
        """Add tokens that are found in the text as they are. Returns how many are new to the vocabulary.

        A token that the vocabulary has keeps its id. The model's embedding needs `len(tokenizer)` rows.
        """
        tokens = [new_tokens] if isinstance(new_tokens, str | AddedToken) else list(new_tokens)
        return self._add(tokens, special_tokens)

    def add_special_tokens(
        self,
        special_tokens_dict: Mapping[str, str | AddedToken | Sequence[str | AddedToken]],
        replace_additional_special_tokens: bool = True,
    ) -> int:
        """Give roles to tokens and add those that are new. Returns how many are.

        Args:
            special_tokens_dict: `bos_token`, ... to a token; `additional_special_tokens` to a list of them.
            replace_additional_special_tokens: replace the additional special tokens (the former ones stay in
                the vocabulary, as ordinary added tokens) instead of extending them.

        Raises:
            ValueError: a key is no role, or a value has the wrong type.
        """
        added: list[str | AddedToken] = []
        for role, value in special_tokens_dict.items():
            if role == "additional_special_tokens" and isinstance(value, list | tuple):
                tokens = [_as_special(token) for token in value]
                if not replace_additional_special_tokens:
                    tokens = [token for token in tokens if str(token) not in self.additional_special_tokens]
                    self._additional.extend(tokens)
                elif tokens:
                    self._additional = list(tokens)
                added += tokens
            elif role in self.ROLES and isinstance(value, str | AddedToken):
                token = _as_special(value)
                self.roles[role] = token
                added.append(token)
            else:
                raise ValueError(f"{role!r}: {value!r} is not a role and its special token(s)")
        return self._add(added, special=True)

    def _add(self, tokens: list[str | AddedToken], special: bool) -> int:
        vocabulary = self.get_vocab()
        free = size = len(vocabulary)
        for given in tokens:
            if not str(given) or (isinstance(given, str) and given in self._added_tokens_encoder):
                continue
            if isinstance(given, str):
                token = AddedToken(given, special=special or given in self.all_special_tokens)
            else:
                token = replace(given, special=True) if special else given
            if not token.special and token.normalized and self._lowercase:
                token = replace(token, content=token.content.lower())
            index = vocabulary.setdefault(token.content, free)
            free += index == free
            if token.special and token.content not in self.all_special_tokens:
                self._additional.append(token)
            self._added_tokens_decoder[index] = token
            self._added_tokens_encoder[token.content] = index
        self._vocabulary_changed()
        return free - size

    def _vocabulary_changed(self) -> None:
        """Renew what is derived from tokens and roles; called after each change of either."""
        self._ids = self.get_vocab()
        self._unknown_id = None if self.unk_token is None else self._ids.get(self.unk_token)

    # Conversion

    @overload
    def convert_tokens_to_ids(self, tokens: str) -> int: ...

    @overload
    def convert_tokens_to_ids(self, tokens: list[str] | tuple[str, ...]) -> list[int]: ...

    def convert_tokens_to_ids(self, tokens: str | list[str] | tuple[str, ...]) -> int | list[int]:
        """The id of a token, or the ids of several; what is not in the vocabulary gets the unknown token's.

        Raises:
            ValueError: a token is not in the vocabulary and there is no unknown token.
        """
        if isinstance(tokens, str):
            return self.convert_tokens_to_ids([tokens])[0]
        ids = list(map(self._ids.get, tokens, repeat(self._unknown_id)))
        if self._unknown_id is None and None in ids:
            raise ValueError(f"{tokens[ids.index(None)]!r} is not in the vocabulary and there is no unknown token")
        return ids  # type: ignore[return-value]

    @overload
    def convert_ids_to_tokens(self, ids: int, skip_special_tokens: bool = False) -> str: ...

    @overload
    def convert_ids_to_tokens(self, ids: Sequence[int], skip_special_tokens: bool = False) -> list[str]: ...

    def convert_ids_to_tokens(self, ids: int | Sequence[int], skip_special_tokens: bool = False) -> str | list[str]:
        """The token of an id, or the tokens of several; ids outside the vocabulary give the unknown token."""
        if isinstance(ids, int):
            return self._id_token(ids)
        skipped = set(self.all_special_ids) if skip_special_tokens else ()
        return [self._id_token(index) for index in map(int, ids) if index not in skipped]

    def _id_token(self, index: int) -> str:
        added = self._added_tokens_decoder.get(index)
        return added.content if added else self.decoder.get(index, str(self.unk_token))


def _as_special(token: str | AddedToken) -> AddedToken:
    return AddedToken(token, special=True) if isinstance(token, str) else replace(token, special=True)
