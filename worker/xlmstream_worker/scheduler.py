"""Which request runs in which slot at which step. Pure decisions over plain values: no tensors, no clock, no broker.

The slots of the K/V cache are one array, filled from both ends so that the rows of each decoding mode always lie side
by side and a step reads them as one view, without gathering:

    [ NEXT_TOKEN rows -> | free ...            | <- MASK_APPEND rows | staging ]

A prompt is computed in a staging slot, in chunks bounded by a token budget per step, and copied to the slots of its
candidates when complete: several candidates cost one prompt, and no half-computed row ever lies among those that
decode. A row that leaves makes a hole, which a new row or the last row of its lane fills.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace

from .lanes import Chunk, Lane, Placement, Prompt, Row
from .prefix import PrefixIndex
from .sequences import DecodingMode, SequenceRequest


class Scheduler:
    """Requests wait in order of arrival until the slots for all their rows are free; nobody overtakes.

    One step asks, in this order, for `sources()` (what to encode, of a translation model), `chunks()` (what to
    prefill), `place()` (copies), and the rows of `lanes`.
    """

    def __init__(
        self,
        slots: int,
        staging: int,
        prefill_tokens: int,
        max_positions: int,
        *,
        cached: bool = True,
        gap: int = 0,
        prefix_blocks: int = 0,
    ) -> None:
        """`cached`: prompts are computed ahead (causal models). `gap`: slots between the lanes that rows never use, for
        batches padded to a fixed size. `prefix_blocks`: size of the prefix store."""
        self._cached = cached
        self._prefixes = PrefixIndex(prefix_blocks)
        self._reusing: list[Prompt] = []
        self.slots = slots
        self.max_positions = max_positions
        self.lanes = {
            DecodingMode.NEXT_TOKEN: Lane(DecodingMode.NEXT_TOKEN, 0, 1),
            DecodingMode.MASK_APPEND: Lane(DecodingMode.MASK_APPEND, slots + gap - 1, -1),
        }
        self._budget = prefill_tokens
        self._staging = list(range(slots + gap, slots + gap + staging))
        self._waiting: deque[SequenceRequest] = deque()
        self._prompts: list[Prompt] = []
        self._backlog: list[Prompt] = []
        self._keys: dict[str, SequenceRequest] = {}

    # -- what callers ask for ------------------------------------------------------------------------------------

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def add(self, request: SequenceRequest) -> None:
        self._keys[request.key] = request
        self._waiting.append(request)

    def cancel(self, key: str) -> None:
        """Forget the request: its rows leave and nothing of it is reported."""
        if self._keys.pop(key, None) is None:
            return
        self._waiting = deque(request for request in self._waiting if request.key != key)
        for prompt in (*self._prompts, *self._backlog):
            prompt.dropped |= prompt.request.key == key
        for row in self.rows():
            if row.request.key == key:
                row.leaving = row.silent = True
        self._release_dropped()

    def finish(self, key: str, candidate: int) -> None:
        """End one candidate, waiting, about to decode or decoding. The beams of a search end together or not at all."""
        if key in self._keys and self._keys[key].beam_search is not None:
            return
        for row in self.rows():
            if row.request.key == key and row.candidate == candidate:
                row.leaving = row.silent = True
        waiting = (_without(request, candidate) if request.key == key else request for request in self._waiting)
        self._waiting = deque(request for request in waiting if request.rows)
        for prompt in (*self._prompts, *self._backlog):
            if prompt.request.key == key and candidate in prompt.candidates:
                prompt.candidates = tuple(c for c in prompt.candidates if c != candidate)
                prompt.dropped = not prompt.candidates
        self._release_dropped()
        self.forget_if_ended(key)

    def forget_if_ended(self, key: str) -> None:
        """Call when a row has said its last: the key is free again once nothing of the request is left."""
        if any(row.request.key == key and not row.silent for row in self.rows()):
            return
        if any(item.request.key == key for item in (*self._prompts, *self._backlog)):
            return
        if all(request.key != key for request in self._waiting):
            self._keys.pop(key, None)

    # -- one step ------------------------------------------------------------------------------------------------

    def sources(self) -> list[Prompt]:
        """The prompts whose sources are to be encoded, admitting new ones while slots last."""
        while self._stage_next():
            pass
        return [prompt for prompt in self._prompts if prompt.awaits_source]

    def chunks(self) -> list[Chunk]:
        """The prompt tokens to compute now: running prompts first, then new ones while budget and slots last."""
        chunks: list[Chunk] = []
        budget = self._budget
        while True:
            for prompt in self._prompts:
                if prompt.awaits_source:
                    continue
                stop = min(prompt.needed, prompt.computed + budget)
                if stop > prompt.computed:
                    chunks.append(Chunk(prompt, prompt.computed, stop))
                    budget -= stop - prompt.computed
                    prompt.computed = stop
            if budget <= 0 or not self._stage_next():
                return chunks

    def loads(self) -> list[Prompt]:
        """Prompts, new since the last call, whose first tokens are to be copied from the prefix store, before
        `chunks` run."""
        loads, self._reusing = self._reusing, []
        return loads

    def place(self) -> Placement:
        """Free the slots of leaving rows and give slots to the candidates of complete prompts."""
        started: list[tuple[Prompt, Row]] = []
        stored: list[tuple[Prompt, int, int]] = []
        for prompt in [prompt for prompt in self._prompts if prompt.ready]:
            self._prompts.remove(prompt)
            if prompt.sharers is not None:
                fresh = self._prefixes.store(prompt.sharers, prompt.ids[: prompt.needed])
                stored += [(prompt, block, start) for block, start in fresh]
            self._staging.append(prompt.slot)
            started += [(prompt, row) for row in self._rows_of(prompt)]
        moves: list[tuple[int, int, int]] = []
        for mode, lane in self.lanes.items():
            moves += lane.close_holes([row for _, row in started if row.request.mode is mode])
        return Placement(tuple(stored), tuple(moves), tuple(started))

    # -- what is where -------------------------------------------------------------------------------------------

    def rows(self) -> Iterator[Row]:
        for lane in self.lanes.values():
            yield from lane.rows

    @property
    def busy_slots(self) -> int:
        """Slots of rows that decode, or held for candidates whose prompt is being computed."""
        live = sum(not row.leaving for row in self.rows())
        return live + sum(len(prompt.candidates) for prompt in (*self._prompts, *self._backlog))

    @property
    def spare_slots(self) -> int:
        """Slots that no row holds and no waiting request will need; below 0: that many are lacking."""
        wanted = sum(request.rows for request in self._waiting)
        return self.slots - self.busy_slots - wanted

    @property
    def free_slots(self) -> int:
        """`spare_slots`, but never below 0."""
        return max(0, self.spare_slots)

    @property
    def idle(self) -> bool:
        return not self._waiting and self.busy_slots == 0

    # -- inside --------------------------------------------------------------------------------------------------

    def _stage_next(self) -> bool:
        """Give the next prompt a staging slot, admitting the next request when it fits; False when nothing can."""
        if not self._staging:
            return False
        if not self._backlog and not self._admit_next():
            return False
        prompt = self._backlog.pop(0)
        prompt.slot = self._staging.pop()
        if prompt.sharers is not None:
            prompt.reused = tuple(self._prefixes.find(prompt.sharers, prompt.ids[: prompt.needed]))
            prompt.computed = prompt.cached_tokens
            if prompt.reused:
                self._reusing.append(prompt)
        self._prompts.append(prompt)
        return True

    def _admit_next(self) -> bool:
        if not self._waiting or self._waiting[0].rows > self.slots - self.busy_slots:
            return False
        others = self.busy_slots > 0
        guarded = any(row.request.alone and not row.leaving for row in self.rows())
        guarded |= any(prompt.request.alone for prompt in self._prompts)
        if others and (guarded or self._waiting[0].alone):
            return False
        self._backlog = _prompts_of(self._waiting.popleft(), self._cached)
        return True

    def _rows_of(self, prompt: Prompt) -> list[Row]:
        request = prompt.request
        produced = len(prompt.ids) - len(request.prompt_ids)
        limit = min(request.max_new_tokens, self.max_positions - len(request.prompt_ids))
        return [Row(request, candidate, produced, limit, prompt.cached_tokens) for candidate in prompt.candidates]

    def _release_dropped(self) -> None:
        self._staging += [prompt.slot for prompt in self._prompts if prompt.dropped]
        self._prompts = [prompt for prompt in self._prompts if not prompt.dropped]
        self._backlog = [prompt for prompt in self._backlog if not prompt.dropped]


def _without(request: SequenceRequest, candidate: int) -> SequenceRequest:
    """The request less one of its candidates, if it has that one."""
    ended = request.ended_candidates | ({candidate} & set(range(request.candidates)))
    return replace(request, ended_candidates=ended)


def _prompts_of(request: SequenceRequest, cached: bool) -> list[Prompt]:
    """One prompt per distinct beginning of the request's rows."""
    if request.beam_search is not None:  # it is run again from the beginning, whatever was delivered
        needed = len(request.prompt_ids) - 1 if cached else 0
        return [Prompt(request, tuple(range(request.rows)), request.prompt_ids, slot=-1, needed=needed)]
    beginnings: dict[tuple[int, ...], list[int]] = {}
    for candidate in range(request.candidates):
        if candidate not in request.ended_candidates:
            forced = request.forced_ids[candidate] if request.forced_ids else ()
            beginnings.setdefault(forced, []).append(candidate)
    prompts = []
    for forced, candidates in beginnings.items():
        ids = request.prompt_ids + forced
        prompts.append(Prompt(request, tuple(candidates), ids, slot=-1, needed=len(ids) - 1 if cached else 0))
    return prompts
