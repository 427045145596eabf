"""Translations of a corpus's sentences by a model as it is trained, for figures and samples: plain library calls."""

from collections.abc import Sequence

import numpy as np
import torch

from xlmstream_worker.xlm import XLMEncoderDecoder

from .corpus import Ids
from .translation_batches import source_batch

ROWS_PER_CALL = 16


def translate(
    model: XLMEncoderDecoder, sentences: Sequence[Ids], source: int, target: int, num_beams: int = 1
) -> list[list[int]]:
    """Each sentence (ids without `</s>`) from one language into the other, by their ids in the model: the best
    translation's ids. The order of the sentences does not matter to the results."""
    translations: list[list[int]] = [[] for _ in sentences]
    order = sorted(range(len(sentences)), key=lambda place: len(sentences[place]))
    for at in range(0, len(order), ROWS_PER_CALL):
        places = order[at : at + ROWS_PER_CALL]
        batch = source_batch([sentences[place] for place in places], np.full(len(places), source))
        assert batch.mask is not None
        found = model.generate(
            batch.ids,
            batch.mask.sum(1).long(),
            batch.langs,
            torch.full((len(places),), target),
            num_beams=num_beams,
        )
        for place, (best, *_) in zip(places, found, strict=True):
            translations[place] = best.ids
    return translations
