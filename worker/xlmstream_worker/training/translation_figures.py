"""The measured part of a translation model's card: BLEU, chrF and samples per direction, as Markdown.

Needs sacrebleu (Post 2018), which comes with the development extra.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np

from xlmstream_worker.xlm import XLMEncoderDecoder, XLMTokenizer

from .corpus import Ids, encode_files
from .export import Training
from .figures import NAMES, Table, table
from .head_tasks import reader
from .measure import held_out
from .translate import translate

SENTENCES, SAMPLES, BEAMS = 100, 5, 4


@dataclass(frozen=True)
class Quality:
    """How close translations come to references: BLEU and chrF, both of the whole corpus, from 0 to 100."""

    bleu: float
    chrf: float


def quality(translations: Sequence[str], references: Sequence[str]) -> Quality:
    """Of texts whose words are already separated by the Moses rules. `ModuleNotFoundError` without sacrebleu."""
    import sacrebleu

    # Both are tokenised alike; no second tokenisation.
    bleu = sacrebleu.corpus_bleu(translations, [references], tokenize="none", force=True)
    return Quality(bleu.score, sacrebleu.corpus_chrf(translations, [references]).score)


def translation_figures(directory: Path, training: Training, files: Sequence[Path]) -> str:
    """BLEU and chrF of every direction, greedy and by beam search, and the first samples."""
    recipe = training.recipe
    model, tokenizer = XLMEncoderDecoder.from_pretrained(directory), XLMTokenizer.from_pretrained(directory)
    corpus = encode_files(files, recipe.languages, reader(None, tokenizer))
    languages = sorted(recipe.languages)
    sentences = _spaced(held_out(corpus, languages))
    texts = {lang: [tokenizer.decode(ids.tolist()) for ids in rows] for lang, rows in sentences.items()}
    found: dict[tuple[str, str], dict[int, Quality]] = {}
    samples = []
    for source, target in permutations(languages, 2):
        ids = (recipe.lang2id[source], recipe.lang2id[target])
        by_beams = {
            beams: [tokenizer.decode(row) for row in translate(model, sentences[source], *ids, num_beams=beams)]
            for beams in (1, BEAMS)
        }
        found[source, target] = {beams: quality(each, texts[target]) for beams, each in by_beams.items()}
        samples.append(_samples(source, target, texts[source], by_beams[BEAMS], texts[target]))
    tables = [_directions(languages, found, beams, figure) for beams in (BEAMS, 1) for figure in ("BLEU", "chrF")]
    return f"""\
## Measured on held-out chapters

{len(texts[languages[0]])} verses, evenly spaced among those of the held-out chapters (valid and test) that every
language has, from the row's language to the column's. BLEU and chrF are those of sacrebleu, against the one reference;
words are separated by the Moses rules on both sides, as the service returns text (`tokenize="none"`).

{chr(10).join(tables)}
## Samples

The first {SAMPLES} of those verses in each direction, beam search with {BEAMS} beams, nothing left out: the source, the
model's translation, the reference.

{chr(10).join(samples)}"""


def _spaced(rows: dict[str, list[Ids]]) -> dict[str, list[Ids]]:
    """At most SENTENCES of the rows, evenly spaced, the same in every language."""
    count = len(next(iter(rows.values())))
    places = np.unique(np.linspace(0, count - 1, min(count, SENTENCES)).astype(int)).tolist()
    return {lang: [sentences[place] for place in places] for lang, sentences in rows.items()}


def _directions(
    languages: Sequence[str], found: dict[tuple[str, str], dict[int, Quality]], beams: int, figure: str
) -> str:
    rows: Table = []
    for source in languages:
        cells = (
            "" if source == target else f"{getattr(found[source, target][beams], figure.lower()):.1f}"
            for target in languages
        )
        rows.append([source, *cells])
    how = f"{beams} beams" if beams > 1 else "greedy"
    return table([f"{figure}, {how}", *languages], rows)


def _samples(
    source: str, target: str, texts: Sequence[str], translations: Sequence[str], references: Sequence[str]
) -> str:
    lines = [
        f"- {text}\n  - *{translation or '(nothing)'}*\n  - {reference}\n"
        for text, translation, reference in zip(
            texts[:SAMPLES], translations[:SAMPLES], references[:SAMPLES], strict=True
        )
    ]
    return f"{NAMES.get(source, source)} to {NAMES.get(target, target)}:\n\n{''.join(lines)}"
