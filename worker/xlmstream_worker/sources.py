"""Reading the sources of translations: from token ids to the keys and values that the decoder looks at.

The encoder sees a text from both sides, so it cannot be given a piece of it, as prompts are. What one step computes is
bounded by layers instead: short sources pass together, without padding, and a long one takes several steps, between
which the rows that decode go on.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial

import torch

from .cross import SourceCache
from .isolation import run_isolated
from .lanes import Prompt
from .network import Network
from .sequences import Failure
from .transfer import upload
from .xlm import PackedStates, XLMModel, pack
from .xlm.packed import PackedEncoding

Fail = Callable[[Prompt, Failure], None]


class SourceReader:
    """Encodes the sources of prompts in staging slots, in the order of their coming."""

    def __init__(self, encoder: XLMModel, network: Network, cache: SourceCache, step_tokens: int) -> None:
        """`step_tokens`: how many tokens may pass all layers in one step."""
        if encoder.device != network.device or encoder.dtype != network.dtype:
            encoder = copy.deepcopy(encoder).to(device=network.device, dtype=network.dtype)
        self._encoder, self._network, self._cache = encoder, network, cache
        self._step_tokens = step_tokens
        # Layers of the encoder, and one more for the keys and values of all layers of the decoder.
        self._layers = len(encoder.blocks()) + 1
        self._batch: tuple[Prompt, ...] = ()
        self._encoding: PackedEncoding | None = None

    def advance(self, waiting: Sequence[Prompt], fail: Fail) -> int:
        """Compute one step's share for prompts that are not encoded yet; returns the tokens of those that now are."""
        whole_step = self._step_tokens * self._layers
        room, read = whole_step, 0  # in tokens times layers
        if all(prompt.dropped for prompt in self._batch):
            self._batch, self._encoding = (), None
        while self._batch or self._begin(waiting):
            tokens = sum(len(_ids(prompt)) for prompt in self._batch)
            layers = room // tokens
            if layers == 0 and room < whole_step:
                break
            layers = max(layers, 1)
            room -= layers * tokens
            run_isolated(partial(self._pass, layers=layers), self._batch, fail)
            if self._encoding is None:
                read += tokens
                self._batch = ()
        return read

    def _begin(self, waiting: Sequence[Prompt]) -> bool:
        """Put the next sources together: as many as can pass in one step, at least one. False where there is none."""
        batch: list[Prompt] = []
        room = self._step_tokens
        for prompt in waiting:
            if prompt.encoded or prompt.dropped:
                continue
            room -= len(_ids(prompt))
            if batch and room < 0:
                break
            batch.append(prompt)
        self._batch = tuple(batch)
        return bool(batch)

    def _pass(self, prompts: Sequence[Prompt], layers: int) -> None:
        """Take the batch on by some layers; a part of it, after a failure of the whole, through all of them."""
        whole = len(prompts) == len(self._batch)
        encoding, self._encoding = self._encoding, None  # what has met a failure is not gone on with
        if encoding is None or not whole:
            encoding = self._packed(prompts)
        left = self._layers - encoding.done
        layers = layers if whole else left
        encoding.advance(layers)
        if layers < left:
            self._encoding = encoding
        else:
            self._store(prompts, encoding.states)

    def _packed(self, prompts: Sequence[Prompt]) -> PackedEncoding:
        sources = [prompt.request.source for prompt in prompts]
        languages = [None if source is None else source.language_id for source in sources]
        batch = pack([_ids(prompt) for prompt in prompts], langs=languages, device=self._network.device)
        return PackedEncoding(self._encoder, batch)

    def _store(self, prompts: Sequence[Prompt], states: PackedStates) -> None:
        """Keep what the decoder's layers read of the encoder's states. The slots of dropped prompts are others' now."""
        kept = [number for number, prompt in enumerate(prompts) if not prompt.dropped]
        if not kept:
            return
        x = torch.cat([states[number] for number in kept])
        places: list[int] = []
        for number in kept:
            start = prompts[number].slot * self._cache.positions
            places += range(start, start + len(states[number]))
        index = upload(places, self._network.device, torch.int64)
        for number, kv in enumerate(self._network.source_projections(x)):
            self._cache.write(number, index, kv)
        for number in kept:
            self._cache.set_length(prompts[number].slot, len(states[number]))
            prompts[number].encoded = True


def _ids(prompt: Prompt) -> tuple[int, ...]:
    """The source of a prompt that has one."""
    source = prompt.request.source
    return () if source is None else source.ids
