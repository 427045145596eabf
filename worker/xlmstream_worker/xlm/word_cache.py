"""A bounded, thread-safe cache for values that can be computed again."""

from typing import Generic, TypeVar

Value = TypeVar("Value")


class GenerationCache(Generic[Value]):
    """A dictionary of strings that forgets what was not used for long, without locks or per-access bookkeeping.

    Entries live in a young generation until it is full; then it becomes the old one and the previous old one is
    dropped. What is found in the old generation moves to the young one. Threads may race: each step is one
    atomic dictionary operation, and the worst outcome is that a value is computed twice.

    Args:
        size: the most entries kept, in both generations together; at least 2.
    """

    __slots__ = ("_half", "_old", "_young")

    def __init__(self, size: int) -> None:
        if size < 2:
            raise ValueError(f"cache size must be at least 2, got {size}")
        self._half = size // 2
        self._young: dict[str, Value] = {}
        self._old: dict[str, Value] = {}

    def get(self, key: str) -> Value | None:
        """The value, or None."""
        value = self._young.get(key)
        if value is None:
            value = self._old.get(key)
            if value is not None:
                self.put(key, value)
        return value

    def get_many(self, keys: list[str]) -> list[Value | None]:
        """The values of the young generation only, or None: quick, for callers that then `get` what is missing."""
        return list(map(self._young.get, keys))

    def put(self, key: str, value: Value) -> None:
        """Store a value (not None)."""
        young = self._young
        if len(young) >= self._half:
            self._old = young
            young = self._young = {}
        young[key] = value

    def __len__(self) -> int:
        return len(self._young) + len(self._old)
