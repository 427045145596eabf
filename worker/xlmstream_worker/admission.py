"""How much a worker takes from the queue: the one rule for every task. Chunks of jobs have their own.

A generation, as a translation, occupies a slot for as long as it runs. Everything else costs tokens, and a worker holds
a few batches' worth: one that is computed, one that is being tokenised, one whose messages are being built. More would
only be missed by other workers. Costs are the gateway's estimates, so how many executions fit is an estimate as well.
Pure.
"""

from __future__ import annotations

import math

from xlmstream.v1.common_pb2 import TASK_GENERATE, TASK_TRANSLATE
from xlmstream_server.broker.v1.messages_pb2 import Envelope

BATCHES_IN_HAND = 3
MOST_AT_ONCE = 256
# The tasks that occupy slots.
GENERATING = frozenset((TASK_GENERATE, TASK_TRANSLATE))
# Of the mean cost, how much the newest execution counts.
_NEWEST = 0.05


class Admission:
    """What a worker has in hand, and how much more it may take."""

    def __init__(self, slots: int, batch_tokens: int) -> None:
        """`slots`: generations that can run at once, 0 for a model that cannot generate."""
        self._slots = slots
        self._most_tokens = BATCHES_IN_HAND * batch_tokens
        self._generating = 0
        self._tokens = 0
        self._mean_tokens = 32.0

    def took(self, envelope: Envelope) -> None:
        """An execution is in hand."""
        if envelope.task in GENERATING:
            self._generating += 1
            return
        cost = _cost(envelope)
        self._tokens += cost
        self._mean_tokens += _NEWEST * (cost - self._mean_tokens)

    def ended(self, envelope: Envelope) -> None:
        """An execution is in hand no more."""
        if envelope.task in GENERATING:
            self._generating -= 1
        else:
            self._tokens -= _cost(envelope)

    def room(self, own_slots: int = 0) -> int:
        """How many more executions to take, where `own_slots` are left to jobs. Of what kind the next ones are cannot
        be chosen, so there must be room for either."""
        by_tokens = math.ceil(max(self._most_tokens - self._tokens, 0) / self._mean_tokens)
        room = min(by_tokens, MOST_AT_ONCE)
        return min(room, max(self._slots - own_slots - self._generating, 0)) if self._slots else room


def _cost(envelope: Envelope) -> int:
    return max(envelope.cost_tokens, 1)
