"""Checks that every task shares: request options and inputs, against the model's card and the gateway's limits.

Checks name the field as the caller knows it (`inputs[3].text`), say what would be right, and report everything that is
wrong at once. They need no tokenizer: what only the worker can know (the token count of a text) it reports itself.
"""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from typing import Protocol

from xlmstream.status import listing, quote
from xlmstream.v1.common_pb2 import DisconnectPolicy, Priority, RequestOptions, TextInput, TokenIds, Truncation
from xlmstream.v1.models_pb2 import Model

from xlmstream_server import errors
from xlmstream_server.config import Limits

# Of a model, in one request.
MAX_LABELS = 1024
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class _Enum(Protocol):
    """A generated enum."""

    def keys(self) -> Sequence[str]: ...
    def values(self) -> Sequence[int]: ...


class Violations:
    """What is wrong with a request, collected field by field."""

    def __init__(self) -> None:
        self._found: list[tuple[str, str]] = []

    def add(self, field: str, description: str) -> None:
        self._found.append((field, description))

    def check(self, right: bool, field: str, description: str) -> None:
        if not right:
            self.add(field, description)

    def within(self, field: str, value: float, least: float, most: float) -> None:
        """Also refuses NaN, which no comparison accepts."""
        self.check(least <= value <= most, field, f"{value:g} is out of range: {least:g} to {most:g}")

    def at_most(self, field: str, count: int, most: int, what: str) -> None:
        self.check(count <= most, field, f"{count} {what}; at most {most} are taken")

    def known(self, field: str, value: int, values: _Enum) -> None:
        """An open enum keeps numbers it does not know: a newer client asks for something this gateway cannot do."""
        if value and value not in values.values():
            self.add(field, f"{value} is not one of {', '.join(values.keys())}")

    def add_to(self, other: Violations, field: str, to: str) -> None:
        """Tell `other` all of this, with what is said of `field` and the fields inside it said of `to`."""
        for path, description in self._found:
            other.add(to + path.removeprefix(field) if path.startswith(field) else path, description)

    def error(self) -> errors.ServiceError | None:
        return errors.invalid_input(self._found) if self._found else None

    def raise_if_any(self) -> None:
        if found := self.error():
            raise found


def check_options(found: Violations, options: RequestOptions) -> None:
    """The parts of RequestOptions that need no model."""
    if options.request_id:
        found.check(
            REQUEST_ID.fullmatch(options.request_id) is not None,
            "options.request_id",
            "1 to 128 letters, digits, '.', '_', ':' and '-'",
        )
    found.known("options.priority", options.priority, Priority)
    found.known("options.truncation", options.truncation, Truncation)
    found.known("options.disconnect_policy", options.disconnect_policy, DisconnectPolicy)


def check_input_count(found: Violations, count: int, limits: Limits) -> None:
    found.check(0 < count <= limits.max_inputs, "inputs", f"{count} inputs; 1 to {limits.max_inputs} are taken")


def input_error(
    path: str, given: TextInput, options: RequestOptions, model: Model, limits: Limits, *, ids_taken: bool = True
) -> errors.ServiceError | None:
    """What is wrong with one text or its ids, or None."""
    found = Violations()
    if given.HasField("language"):
        check_language(found, f"{path}.language", given.language, model)
    match given.WhichOneof("source"):
        case "text":
            _check_text(found, f"{path}.text", given.text, limits)
        case "token_ids" if ids_taken:
            check_ids(found, f"{path}.token_ids.ids", given.token_ids, model)
            found_error = found.error()
            return found_error or _length_error(f"{path}.token_ids.ids", given.token_ids, options, model)
        case "token_ids":
            found.add(f"{path}.token_ids", "this task takes text only")
        case _:
            found.add(f"{path}.text" if not ids_taken else path, "set exactly one of text and token_ids")
    return found.error()


def kinds_error(path: str, given: TextInput, like: TextInput) -> errors.ServiceError | None:
    """Texts that the model sees together must be of one kind."""
    if given.WhichOneof("source") == like.WhichOneof("source"):
        return None
    return errors.invalid_input([(path, "texts that belong together must all be texts or all be token ids")])


def check_labels(found: Violations, field: str, given: Sequence[str], known: Container[str], model: Model) -> None:
    """Labels that a request names: some of the `known` ones, which go by those of the model."""
    found.at_most(field, len(given), MAX_LABELS, "labels")
    for position, label in enumerate(given[:MAX_LABELS]):
        if label not in known:
            found.add(f"{field}[{position}]", f"{quote(label)} is not a label; the model has: {listing(model.labels)}")


def check_language(found: Violations, field: str, language: str, model: Model) -> None:
    if not model.languages:
        found.add(field, "this model has one language and takes no code")
    elif language not in model.languages:
        found.add(field, f"{quote(language)} is not supported; supported: {listing(model.languages)}")


def check_ids(found: Violations, field: str, ids: TokenIds, model: Model) -> None:
    found.check(len(ids.ids) > 0, field, "at least one id is needed")
    if wrong := _first_at_least(ids.ids, model.vocabulary_size):
        position, value = wrong
        found.add(f"{field}[{position}]", f"{value} is not in the vocabulary: 0 to {model.vocabulary_size - 1}")


def _check_text(found: Violations, field: str, text: str, limits: Limits) -> None:
    if not text or text.isspace():
        found.add(field, "must not be empty or only white space")
        return
    size_bytes = len(text) if text.isascii() else len(text.encode())
    found.check(
        size_bytes <= limits.max_text_bytes,
        field,
        f"{size_bytes} bytes of UTF-8; at most {limits.max_text_bytes} are taken",
    )


def _length_error(field: str, ids: TokenIds, options: RequestOptions, model: Model) -> errors.ServiceError | None:
    if len(ids.ids) > model.max_input_tokens and options.truncation == Truncation.TRUNCATION_UNSPECIFIED:
        return errors.input_too_long(field, len(ids.ids), model.max_input_tokens)
    return None


def _first_at_least(values: Sequence[int], bound: int) -> tuple[int, int] | None:
    if not values or max(values) < bound:  # max() over the repeated field is the fast path of every good request
        return None
    return next((position, value) for position, value in enumerate(values) if value >= bound)
