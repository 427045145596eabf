"""Which inputs the encoder computes next: requests of any size become batches of a bounded number of tokens.

Requests take turns, one input each, so that a small one does not wait for a large one before it. Within a request the
longest inputs come first: neighbours are of similar length, and if memory does not suffice it shows at once.

Bulk requests, which nobody waits for, come one after another, so that what is computed is soon complete and saved. They
come after all others: they have the batches that nobody else wants, which are kept short, as whoever comes next waits
for the end of one; they fill up batches of others by a little; and where they would have nothing they get a batch now
and then. Pure: no tensors, no clock.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass

from .encoder_inputs import EncoderInput, EncoderRequest

GOOD_BATCHES_TO_GROW = 32
# To a batch of others bulk work adds at most this part of what it may have in its own: more would hold them up.
BULK_PART = 8
# After so many batches without any bulk work one is bulk work alone: its least share.
BATCHES_WITHOUT_BULK = 8


@dataclass(frozen=True, slots=True)
class Job:
    """One input on its way through the engine."""

    key: str
    index: int
    given: EncoderInput
    alone: bool

    @property
    def tokens(self) -> int:
        return len(self.given.ids)


class Batcher:
    """The inputs that wait."""

    def __init__(self, bulk_tokens: int) -> None:
        """`bulk_tokens`: most tokens of a batch of bulk work."""
        self._bulk_tokens = bulk_tokens
        self._line = _Line(turns=True)
        self._bulk = _Line(turns=False)
        self._without_bulk = 0

    def __contains__(self, key: str) -> bool:
        return key in self._line or key in self._bulk

    def __bool__(self) -> bool:
        return bool(self._line or self._bulk)

    def add(self, request: EncoderRequest) -> None:
        """Queue all inputs of a request."""
        (self._bulk if request.bulk else self._line).add(request)

    def cancel(self, key: str) -> None:
        """Forget what waits of a request; an unknown key is no error."""
        self._line.cancel(key)
        self._bulk.cancel(key)

    def next(self, budget_tokens: int) -> list[Job]:
        """The next batch: inputs of at most `budget_tokens` together, or a single larger one. Empty: nothing waits."""
        bulk_tokens = min(self._bulk_tokens, budget_tokens)
        if not self._line or (self._bulk and self._without_bulk == BATCHES_WITHOUT_BULK):
            self._without_bulk = 0
            return self._bulk.take(bulk_tokens)
        batch = self._line.take(budget_tokens)
        filling: list[Job] = []
        if self._bulk and not (batch[0].alone or self._bulk.alone):
            left_tokens = budget_tokens - sum(job.tokens for job in batch)
            filling = self._bulk.take(min(left_tokens, bulk_tokens // BULK_PART), at_least_one=False)
        self._without_bulk = self._without_bulk + 1 if self._bulk and not filling else 0
        return batch + filling


class _Line:
    """Requests that wait: with `turns` they take turns, else the first one goes before the next."""

    def __init__(self, *, turns: bool) -> None:
        self._turns = turns
        self._requests: OrderedDict[str, deque[Job]] = OrderedDict()  # in the order of their turns

    def __contains__(self, key: str) -> bool:
        return key in self._requests

    def __bool__(self) -> bool:
        return bool(self._requests)

    @property
    def alone(self) -> bool:
        """Whether the request whose turn it is shares its batches with no other."""
        first = next(iter(self._requests), None)
        return first is not None and self._requests[first][0].alone

    def add(self, request: EncoderRequest) -> None:
        jobs = [Job(request.key, index, given, request.alone) for index, given in enumerate(request.inputs)]
        if jobs:
            self._requests[request.key] = deque(sorted(jobs, key=lambda job: -job.tokens))

    def cancel(self, key: str) -> None:
        self._requests.pop(key, None)

    def take(self, budget_tokens: int, *, at_least_one: bool = True) -> list[Job]:
        """Inputs of at most `budget_tokens` together; with `at_least_one`, a single larger one instead of none."""
        batch: list[Job] = []
        tokens = 0
        turns = self._sharing()
        while turns:
            key = turns[0]
            job = self._requests[key][0]
            tokens += job.tokens
            if tokens > budget_tokens and (batch or not at_least_one):
                break
            batch.append(job)
            left = self._take_turn(key)
            if self._turns or not left:
                turns.popleft()
            if self._turns and left:
                turns.append(key)
        return batch

    def _sharing(self) -> deque[str]:
        """The requests that may be in one batch, in the order of their turns."""
        if self.alone:
            return deque([next(iter(self._requests))])
        return deque(key for key, jobs in self._requests.items() if not jobs[0].alone)

    def _take_turn(self, key: str) -> bool:
        """Drop the first input of a request, which with turns goes to the end; False when it was the last."""
        jobs = self._requests[key]
        jobs.popleft()
        if not jobs:
            del self._requests[key]
        elif self._turns:
            self._requests.move_to_end(key)
        return bool(jobs)


class TokenBudget:
    """How many tokens a batch may have: halved where memory did not suffice, doubled again after a good while."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._good = 0
        self.tokens = most

    def starved(self, batch_tokens: int) -> None:
        """A batch of so many tokens did not fit."""
        self.tokens = max(min(self.tokens, batch_tokens) // 2, 1)
        self._good = 0

    def fitted(self) -> None:
        """A batch did fit."""
        self._good += 1
        if self._good >= GOOD_BATCHES_TO_GROW and self.tokens < self._most:
            self.tokens = min(self.tokens * 2, self._most)
            self._good = 0
