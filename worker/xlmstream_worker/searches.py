"""The beam searches of an engine: begun with their rows, advanced together, told when they are over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from torch import Tensor

from .beam import BeamSearch
from .beam_original import OriginalBeamSearch
from .cache import SlotCache
from .isolation import run_isolated
from .lanes import Row
from .sequences import BeamRules, EndReason, Failure, TokenOutput

Fail = Callable[[BeamSearch, Failure], None]


class Searches:
    """By the key of their request."""

    def __init__(self, cache: SlotCache) -> None:
        self._cache = cache
        self._searches: dict[str, BeamSearch] = {}

    def __contains__(self, key: object) -> bool:
        return key in self._searches

    def __len__(self) -> int:
        return len(self._searches)

    def find(self, key: str) -> BeamSearch | None:
        return self._searches.get(key)

    def begin(self, started: Iterable[Row]) -> None:
        """Begin the searches among rows that start in one step; those of a request start together."""
        rows_of: dict[str, list[Row]] = {}
        for row in started:
            if row.request.beam_search is not None:
                rows_of.setdefault(row.request.key, []).append(row)
        for key, rows in rows_of.items():
            parameters = rows[0].request.beam_search
            assert parameters is not None
            kind = OriginalBeamSearch if parameters.rules is BeamRules.ORIGINAL else BeamSearch
            self._searches[key] = kind(rows, parameters, self._cache.lengths.device)

    def advance(self, fed: Sequence[tuple[Row, Tensor]], fail: Fail) -> tuple[BeamSearch, ...]:
        """Give searches the scores of their rows and advance those that have all of theirs, which are returned."""
        for row, scores in fed:
            self._searches[row.request.key].feed(row, scores)
        ready = [self._searches[key] for key in {row.request.key: None for row, _ in fed} if self._searches[key].fed]
        for search in ready:
            run_isolated(lambda only: only[0].advance(self._cache), [search], fail)
        return tuple(search for search in ready if not search.rows[0].silent)

    def end(self, key: str) -> None:
        """Forget a search; an unknown key is no error."""
        self._searches.pop(key, None)


def outputs_of(search: BeamSearch) -> list[TokenOutput]:
    """All tokens of the best sequences of a search that is done, less what an earlier attempt delivered. Waits for the
    device."""
    request, outputs = search.rows[0].request, list[TokenOutput]()
    for candidate, (ids, score) in enumerate(search.results()[: request.candidates]):
        if candidate in request.ended_candidates:
            continue
        reason = EndReason.EOS if ids and ids[-1] in request.end_ids else EndReason.LENGTH
        delivered = len(request.forced_ids[candidate]) if request.forced_ids else 0
        tokens: list[int | None] = list(ids[delivered:])
        if not tokens:  # one that ends without a token, or whose tokens have all been delivered
            delivered, tokens = len(ids), [None]
        cached = search.rows[0].cached_tokens
        said = [
            TokenOutput(request.key, candidate, index, token, cached_tokens=cached, score=score)
            for index, token in enumerate(tokens, delivered)
        ]
        outputs += [*said[:-1], replace(said[-1], finished=reason)]
    return outputs


def failures_of(search: BeamSearch, failure: Failure) -> list[TokenOutput]:
    """The end of every candidate of a search that cannot go on."""
    request = search.rows[0].request
    ended = (c for c in range(request.candidates) if c not in request.ended_candidates)
    return [TokenOutput(request.key, c, 0, None, EndReason.FAILED, failure) for c in ended]
