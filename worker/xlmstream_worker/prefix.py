"""Which beginnings of prompts have their keys and values stored, and where. Pure bookkeeping over block numbers.

Prompts are cut into blocks of `BLOCK_TOKENS`. A stored block is known by its tokens and the block before it, the
first one by who may share it: a chain of blocks is a prefix. When all blocks are taken, the least recently used that
no stored block continues makes room. Only whole blocks are shared, so no prompt is known by less than its first
`BLOCK_TOKENS` tokens.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

BLOCK_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Sharers:
    """Who may share a prefix: requests of one scope (a tenant), in one language."""

    scope: str
    language_id: int | None


Parent = Sharers | int
Name = tuple[Parent, tuple[int, ...]]


class PrefixIndex:
    """The stored blocks 0 .. capacity - 1."""

    def __init__(self, capacity: int) -> None:
        self._free = list(range(capacity))
        self._blocks: dict[Name, int] = {}
        self._names: OrderedDict[int, Name] = OrderedDict()  # least recently used first
        self._children: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._names)

    def find(self, sharers: Sharers, ids: Sequence[int]) -> list[int]:
        """The stored blocks, in order, of the longest known prefix of `ids`."""
        chain: list[int] = []
        parent: Parent = sharers
        for start in range(0, len(ids) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
            block = self._blocks.get((parent, tuple(ids[start : start + BLOCK_TOKENS])))
            if block is None:
                break
            chain.append(block)
            parent = block
        self._touch(chain)
        return chain

    def store(self, sharers: Sharers, ids: Sequence[int]) -> list[tuple[int, int]]:
        """Take up the whole blocks of `ids`; returns (block, first token) of those whose content is to be stored."""
        chain = self.find(sharers, ids)
        fresh: list[tuple[int, int]] = []
        for start in range(len(chain) * BLOCK_TOKENS, len(ids) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
            block = self._take(keep=set(chain))
            if block is None:
                break
            parent: Parent = chain[-1] if chain else sharers
            name = (parent, tuple(ids[start : start + BLOCK_TOKENS]))
            self._blocks[name] = block
            self._names[block] = name
            self._children[block] = 0
            if isinstance(parent, int):
                self._children[parent] += 1
            chain.append(block)
            fresh.append((block, start))
        self._touch(chain)
        return fresh

    def _touch(self, chain: list[int]) -> None:
        """Mark as used, the last first: a block is never older than those it continues in."""
        for block in reversed(chain):
            self._names.move_to_end(block)

    def _take(self, keep: set[int]) -> int | None:
        """A free block, if need be by forgetting one; None when all are in use by the chain at hand."""
        if self._free:
            return self._free.pop()
        for block, name in self._names.items():
            if self._children[block] == 0 and block not in keep:
                parent, _ = name
                if isinstance(parent, int):
                    self._children[parent] -= 1
                del self._blocks[name], self._names[block], self._children[block]
                return block
        return None
