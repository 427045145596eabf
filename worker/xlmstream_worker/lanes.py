"""What the scheduler moves about: rows and prompts, where they lie, what a step shall do with them. Plain values."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from .prefix import BLOCK_TOKENS, Sharers
from .sequences import DecodingMode, SequenceRequest


@dataclass(slots=True, eq=False)
class Row:
    """One candidate that decodes."""

    request: SequenceRequest
    candidate: int
    produced: int
    """Tokens of the candidate so far: forced ones and those computed but not yet read back included."""
    limit: int
    """`produced` at which it has reached its last token."""
    cached_tokens: int = 0
    slot: int = -1
    leaving: bool = False
    """It decodes no further; its slot is free from the next step on."""
    silent: bool = False
    """Nothing of it is reported any more."""

    @property
    def tokens(self) -> int:
        """Tokens in its slot: prompt, forced and generated."""
        return len(self.request.prompt_ids) + self.produced

    @property
    def source_tokens(self) -> int:
        """Tokens of the source it reads, 0 without one."""
        return 0 if self.request.source is None else len(self.request.source.ids)


@dataclass(slots=True, eq=False)
class Prompt:
    """Tokens to be computed in a staging slot, for the candidates that begin with them."""

    request: SequenceRequest
    candidates: tuple[int, ...]
    ids: tuple[int, ...]
    slot: int
    needed: int
    """How many of `ids` the cache must hold before the first decode step."""
    computed: int = 0
    dropped: bool = False
    reused: tuple[int, ...] = ()
    """Blocks of the prefix store that its first tokens come from."""
    encoded: bool = False
    """Whether its slot holds what is read of the source."""

    @property
    def ready(self) -> bool:
        """Whether its rows can begin to decode."""
        return self.computed == self.needed and not self.awaits_source

    @property
    def awaits_source(self) -> bool:
        return self.request.source is not None and not self.encoded

    @property
    def cached_tokens(self) -> int:
        return len(self.reused) * BLOCK_TOKENS

    @property
    def sharers(self) -> Sharers | None:
        scope = self.request.prefix_scope
        if scope is None or self.request.source is not None:
            return None
        return Sharers(scope, self.request.language_id)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Compute the keys and values of `prompt.ids[start:stop]` at these positions of its slot."""

    prompt: Prompt
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Placement:
    """What to copy before decoding: first the blocks to be `stored` (prompt, block, first token) and the `moves`
    (from slot, to slot, tokens), in order, then the `started` rows."""

    stored: tuple[tuple[Prompt, int, int], ...]
    moves: tuple[tuple[int, int, int], ...]
    started: tuple[tuple[Prompt, Row], ...]


@dataclass(slots=True, eq=False)
class Lane:
    """The rows of one mode, dense from one end of the slot array. `version` changes whenever the rows do."""

    mode: DecodingMode
    first_slot: int
    direction: int
    rows: list[Row] = field(default_factory=list)
    version: int = 0

    def slot(self, index: int) -> int:
        return self.first_slot + self.direction * index

    def close_holes(self, joining: list[Row]) -> list[tuple[int, int, int]]:
        """Put joining rows into the places of leaving ones, then the last rows into the places left; returns the
        moves."""
        if not joining and not any(row.leaving for row in self.rows):
            return []
        places: list[Row | None] = [None if row.leaving else row for row in self.rows]
        incoming = deque(joining)
        moves: list[tuple[int, int, int]] = []
        for index in range(len(places)):
            while not incoming and places and places[-1] is None:
                places.pop()
            if index >= len(places):
                break
            if places[index] is None:
                if not incoming:
                    last = places[-1]
                    assert last is not None
                    moves.append((last.slot, self.slot(index), last.tokens))
                places[index] = incoming.popleft() if incoming else places.pop()
        self.rows = [row for row in places if row is not None] + list(incoming)
        for index, row in enumerate(self.rows):
            row.slot = self.slot(index)
        self.version += 1
        return moves
