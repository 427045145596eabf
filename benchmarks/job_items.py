"""Items for the benchmarks of jobs: real sentences, again and again, each with a key of its own."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from xlmstream import JobItem, TextInput

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "worker" / "xlmstream_worker" / "demo"
MODELS = {"embed": "xlm-mlm-demo", "generate": "xlm-clm-demo"}
NEW_TOKENS = 4
PROMPT_WORDS = 6
PARAMETERS: dict[str, dict[str, object]] = {
    "embed": {"truncation": "keep_start"},
    "generate": {"max_new_tokens": NEW_TOKENS, "ignore_eos": True},
}
LANGUAGES = ("en", "fr", "de", "es")
# Sentences of the published collections the project measures with, one JSON object a line: lang, text.
PUBLISHED = ROOT.parent / "shared" / "data" / "sentences.jsonl"
FALLBACK = (
    ("en", "In the beginning God created the heaven and the earth."),
    ("en", "And the king sent his servants to the city, and they told him all these words."),
    ("fr", "Au commencement, Dieu créa les cieux et la terre."),
    ("fr", "Le roi envoya ses serviteurs dans la ville."),
    ("de", "Am Anfang schuf Gott Himmel und Erde."),
    ("de", "Fürchte dich nicht, denn ich bin mit dir."),
    ("es", "En el principio creó Dios los cielos y la tierra."),
    ("es", "Y subieron a Jerusalem con grande gozo."),
)


def sentences(path: Path) -> list[tuple[str, str]]:
    """(language, text) of the demo models' languages; a few built-in ones where the file is absent."""
    if not path.exists():
        return list(FALLBACK)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(line["lang"], line["text"]) for line in lines if line["lang"] in LANGUAGES]


def texts_of(task: str, given: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Whole sentences for Embed, their first words as prompts for Generate."""
    words = PROMPT_WORDS if task == "generate" else None
    return [(language, " ".join(text.split()[:words])) for language, text in given]


def items(given: Sequence[tuple[str, str]], count: int) -> Iterator[JobItem]:
    """So many items."""
    for index, (language, text) in enumerate(itertools.islice(itertools.cycle(given), count)):
        yield JobItem(f"item-{index}", TextInput(text=text, language=language))
