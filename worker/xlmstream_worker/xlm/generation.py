"""Translations from a translation model: greedy, sampled, or by beam search.

A translation begins with `</s>` and bears the target language at every position. Source: facebookresearch/XLM
(`generate`, `generate_beam`, translate.py). Unlike there, every row has a length limit of its own, so that it comes out
the same alone and among others.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .beam_search import BeamSearch, Hypothesis
from .kv_cache import DecoderCache, SourceStates

if TYPE_CHECKING:
    from .encoder_decoder import XLMEncoderDecoder


def default_max_lengths(source_lengths: Tensor, max_positions: int) -> Tensor:
    """int64 (B,): one and a half times the source (both its `</s>` counted) and 10 more, within the decoder's
    positions."""
    return (1.5 * source_lengths + 10).long().clamp(max=max_positions)


@torch.no_grad()
def generate(
    model: "XLMEncoderDecoder",
    input_ids: Tensor,
    lengths: Tensor,
    langs: Tensor | None,
    target_langs: Tensor | None,
    max_lengths: Tensor | None,
    temperature: float | None,
    generator: torch.Generator | None,
    num_beams: int,
    num_return_sequences: int,
    length_penalty: float,
    early_stopping: bool,
    use_cache: bool,
) -> list[list[Hypothesis]]:
    """See XLMEncoderDecoder.generate."""
    limit = model.decoder.config.max_position_embeddings
    if max_lengths is None:
        max_lengths = default_max_lengths(lengths, limit)
    _check(input_ids, max_lengths, limit, temperature, num_beams, num_return_sequences)
    states = model.decoder.read(model.encode(input_ids, lengths, langs), lengths)
    if num_beams > 1:
        steps = _Steps(model, states, target_langs, num_beams, use_cache)
        search = BeamSearch(
            max_lengths,
            num_beams,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
            eos_index=model.decoder.config.eos_index,
            pad_index=model.decoder.config.pad_index,
        )
        return [found[:num_return_sequences] for found in _search(steps, search)]
    steps = _Steps(model, states, target_langs, 1, use_cache)
    return [[found] for found in _draw(steps, max_lengths, temperature, generator, length_penalty)]


def _check(
    input_ids: Tensor,
    max_lengths: Tensor,
    limit: int,
    temperature: float | None,
    num_beams: int,
    num_return_sequences: int,
) -> None:
    if tuple(max_lengths.shape) != (len(input_ids),):
        raise ValueError(f"max_lengths must have shape {(len(input_ids),)}, not {tuple(max_lengths.shape)}")
    if len(input_ids) and not 2 <= int(max_lengths.min()) <= int(max_lengths.max()) <= limit:
        raise ValueError(f"max_lengths must lie between 2 and the decoder's {limit} positions")
    if temperature is not None and (not temperature > 0 or num_beams > 1):
        raise ValueError("temperature must be positive, and is for num_beams=1: beam search draws nothing")
    if num_beams < 1:
        raise ValueError(f"num_beams must be at least 1, not {num_beams}")
    if not 1 <= num_return_sequences <= num_beams:
        raise ValueError(f"num_return_sequences must lie between 1 and num_beams {num_beams}")


class _Steps:
    """Scores of the next token of B * N beginnings, N of each source one after the other."""

    def __init__(
        self, model: "XLMEncoderDecoder", states: SourceStates, langs: Tensor | None, beams: int, use_cache: bool
    ) -> None:
        rows = torch.arange(len(states.keys[0]), device=states.keys[0].device).repeat_interleave(beams)
        self.decoder = model.decoder
        self._states = states if beams == 1 else states.rows(rows)
        self._langs = None if langs is None else langs[rows, None]
        self._cache = DecoderCache() if use_cache else None
        config = model.decoder.config
        self.eos, self.pad = config.eos_index, config.pad_index
        self.ids = torch.full((len(rows), 1), self.eos, device=rows.device)
        """int64 (B * N, T): the beginnings."""

    def scores(self) -> Tensor:
        """float32 (B * N, V)."""
        new = self.ids if self._cache is None else self.ids[:, -1:]
        states = self.decoder(
            new,
            self._states,
            langs=None if self._langs is None else self._langs.expand_as(new),
            # Explicitly: a model may well generate the padding id.
            attention_mask=torch.ones_like(new),
            cache=self._cache,
            cache_position=torch.arange(self.ids.shape[1] - new.shape[1], self.ids.shape[1], device=new.device),
        )
        scores: Tensor = self.decoder.pred_layer(states[:, -1]).float()
        return scores

    def extend(self, tokens: Tensor, rows: Tensor | None = None) -> None:
        """Append a token (B * N,) to each beginning; before that row i becomes the former `rows[i]`, of the same
        source."""
        if rows is not None:
            self.ids = self.ids[rows]
            if self._cache is not None:
                self._cache.reorder(rows, same_sources=True)
        self.ids = torch.cat([self.ids, tokens[:, None]], 1)


def _search(steps: _Steps, search: BeamSearch) -> list[list[Hypothesis]]:
    while not bool(search.done.all()):
        scores = steps.scores()
        B = len(search.done)
        parents, tokens = search.advance(scores.view(B, -1, scores.shape[1]))
        first = torch.arange(B, device=scores.device)[:, None] * parents.shape[1]
        steps.extend(tokens.flatten(), (parents + first).flatten())
    return search.results()


def _draw(
    steps: _Steps,
    max_lengths: Tensor,
    temperature: float | None,
    generator: torch.Generator | None,
    length_penalty: float,
) -> list[Hypothesis]:
    """One translation a source: the likeliest token each time, or one drawn."""
    going_on = torch.ones_like(max_lengths, dtype=torch.bool)
    finished = ~going_on
    sums = torch.zeros(len(max_lengths), device=max_lengths.device)
    while bool(going_on.any()):
        scores = steps.scores()
        if temperature is None:
            tokens = scores.argmax(-1)
        else:
            tokens = torch.multinomial((scores / temperature).softmax(-1), 1, generator=generator)[:, 0]
        stops = tokens == steps.eos
        last = max_lengths <= steps.ids.shape[1] + 1
        # The forced end at the limit is nobody's choice and costs nothing.
        chosen = going_on & (stops | ~last)
        sums += scores.log_softmax(-1).gather(1, tokens[:, None])[:, 0].where(chosen, 0.0)
        finished = finished | (going_on & stops)
        tokens = tokens.masked_fill(last, steps.eos).where(going_on, steps.pad)
        going_on = going_on & ~stops & ~last
        steps.extend(tokens)
    rows = []
    for ids, total, ended in zip(steps.ids.tolist(), sums.tolist(), finished.tolist(), strict=True):
        words = ids[1 : ids.index(steps.eos, 1)]
        rows.append(Hypothesis(words, total / (len(words) + 1) ** length_penalty, ended))
    return rows
