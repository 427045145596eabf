"""Checks of request-wide parameters: everything that is wrong is reported at once, each by the path of its field.

The gateway has checked most of it already; the worker trusts no queue.
"""

from __future__ import annotations

from collections.abc import Container

import xlmstream.status as statuses

from xlmstream_worker.tasks.inputs import Refused


class Checks:
    """What is wrong so far."""

    def __init__(self) -> None:
        self._found: list[tuple[str, str]] = []

    def within(self, field: str, value: float, least: float, most: float) -> None:
        """Also refuses NaN, which no comparison accepts."""
        if not least <= value <= most:
            self.add(field, f"{value:g} is out of range: {least:g} to {most:g}")

    def one_of(self, field: str, value: int, known: Container[int]) -> None:
        """An open enum keeps numbers that this version does not know."""
        if value not in known:
            self.add(field, f"{value} is no value that this version knows")

    def add(self, field: str, description: str) -> None:
        self._found.append((field, description))

    def refuse(self) -> None:
        """Raise Refused if anything is wrong."""
        if self._found:
            raise Refused(statuses.invalid_input(self._found))
