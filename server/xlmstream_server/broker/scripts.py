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


# What stands between lib.lua and the script's own file.
_JOB = ("job", "part")
_PARTS = {
    "take": ("taking",),
    "take_chunks": (*_JOB, "taking"),
    "reap": (*_JOB, "split", "requeue"),
    "handoff": (*_JOB, "split", "requeue"),
    "settle": _JOB,
    "change_job": _JOB,
    "sweep": _JOB,
    **dict.fromkeys(("create_job", "upload", "get_jobs", "list_jobs", "results", "versions"), ("job",)),
}
# New work: refused in a broker out of memory. All others run there too, so that what was accepted is finished.
_NEW_WORK = ("submit", "create_job", "upload")


@cache
def script(name: str) -> Script:
    """The script of that name."""
    folder = resources.files(__package__) / "lua"
    flags = "" if name in _NEW_WORK else " flags=allow-oom"
    files = ("lib", *_PARTS.get(name, ()), name)
    text = f"#!lua{flags}\n" + "\n".join((folder / f"{file}.lua").read_text(encoding="utf-8") for file in files)
    return Script(text.encode(), hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest().encode())
