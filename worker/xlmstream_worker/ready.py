"""The file that tells a container's health check whether the worker serves."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

TOUCH_EVERY_S = 1.0
FRESH_S = 10.0


class ReadyFile:
    """Touched while every model shows signs of life; removed at the end. Without a path it does nothing."""

    def __init__(self, path: str, models: Sequence[str]) -> None:
        self._path = Path(path) if path else None
        self._seen = dict.fromkeys(models, float("-inf"))
        self._touched = float("-inf")

    def beat(self, model: str) -> Callable[[], None]:
        """What a model calls as long as it is well."""
        return partial(self._beat, model)

    def remove(self) -> None:
        """The worker serves no more."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _beat(self, model: str) -> None:
        now = time.monotonic()
        self._seen[model] = now
        if self._path is None or now - self._touched < TOUCH_EVERY_S:
            return
        if all(now - seen < FRESH_S for seen in self._seen.values()):
            self._path.touch()
            self._touched = now


def is_fresh(path: Path) -> bool:
    """Whether the file was touched within the last seconds."""
    try:
        return time.time() - path.stat().st_mtime < FRESH_S
    except FileNotFoundError:
        return False
