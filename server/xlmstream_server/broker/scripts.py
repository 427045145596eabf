"""The Lua scripts: every transition of the queue is one of them.

Scripts are addressed by the SHA-1 of their text, so two releases live side by side during a rolling upgrade; whoever
meets NOSCRIPT sends the text. Each is `lua/lib.lua`, whose head documents every key, followed by its own file.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources

REGISTRY_ROOT = b"xs:{registry}:"


@cache
def shard_root(shard: int) -> bytes:
    """What all keys of a shard begin with; the braces keep them in one slot of a cluster."""
    return b"xs:{%d}:" % shard


@dataclass(frozen=True, slots=True)
class Script:
    text: bytes
    sha: bytes

    def by_sha(self, root: bytes, *arguments: bytes | str | int) -> tuple[bytes | str | int, ...]:
        """The command that runs it where it is loaded."""
        return (b"EVALSHA", self.sha, 1, root, *arguments)

    def by_text(self, root: bytes, *arguments: bytes | str | int) -> tuple[bytes | str | int, ...]:
        """The command that runs it anywhere, and loads it."""
        return (b"EVAL", self.text, 1, root, *arguments)


@cache
def script(name: str) -> Script:
    """The script of that name. All but `submit` run in a broker out of memory too: what was accepted is finished."""
    folder = resources.files(__package__) / "lua"
    parts = ["lib", *(["requeue"] if name in ("reap", "handoff") else []), name]
    flags = "" if name == "submit" else " flags=allow-oom"
    text = f"#!lua{flags}\n" + "\n".join((folder / f"{part}.lua").read_text(encoding="utf-8") for part in parts)
    return Script(text.encode(), hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest().encode())
