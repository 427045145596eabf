"""Which inputs the encoder computes next: requests of any size become batches of a bounded number of tokens.

Requests take turns, one input each, so that a small one does not wait for a large one before it. Within a request the
longest inputs come first: neighbours are of similar length, and if memory does not suffice it shows at once.
Pure: no tensors, no clock.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass

from .encoder_inputs import EncoderInput, EncoderRequest

GOOD_BATCHES_TO_GROW = 32


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

    def __init__(self) -> None:
        self._requests: OrderedDict[str, deque[Job]] = OrderedDict()  # in the order of their turns

    def __contains__(self, key: str) -> bool:
        return key in self._requests

    def __bool__(self) -> bool:
        return bool(self._requests)

    def add(self, request: EncoderRequest) -> None:
        """Queue all inputs of a request."""
        jobs = [Job(request.key, index, given, request.alone) for index, given in enumerate(request.inputs)]
        if jobs:
            self._requests[request.key] = deque(sorted(jobs, key=lambda job: -job.tokens))

    def cancel(self, key: str) -> None:
        """Forget what waits of a request; an unknown key is no error."""
        self._requests.pop(key, None)

    def next(self, budget_tokens: int) -> list[Job]:
        """The next batch: inputs of at most `budget_tokens` together, or a single larger one. Empty: nothing waits."""
        batch: list[Job] = []
        tokens = 0
        turns = self._sharing()
        while turns:
            key = turns.popleft()
            job = self._requests[key][0]
            tokens += job.tokens
            if batch and tokens > budget_tokens:
                break
            batch.append(job)
            if self._take_turn(key):
                turns.append(key)
        return batch

    def _sharing(self) -> deque[str]:
        """The requests that may be in one batch, in the order of their turns."""
        first = next(iter(self._requests), None)
        if first is not None and self._requests[first][0].alone:
            return deque([first])
        return deque(key for key, jobs in self._requests.items() if not jobs[0].alone)

    def _take_turn(self, key: str) -> bool:
        """Drop the first input of a request, which goes to the end of the line; False when it was the last."""
        jobs = self._requests[key]
        jobs.popleft()
        if jobs:
            self._requests.move_to_end(key)
        else:
            del self._requests[key]
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
