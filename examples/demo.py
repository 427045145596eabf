"""What `make demo` runs: start the whole service on this machine, use it, stop it.

Everything is real: an embedded broker, a gateway and a worker as processes of their own (`xlmstream up`), the shipped
demo models, and the client a backend would use.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import running
from sentences import SENTENCES
from xlmstream import Client, TokenDelta

CAUSAL, MASKED, LANGUAGE = "xlm-clm-demo", "xlm-mlm-demo", "xlm-language-demo"
PROMPTS = {
    "en": "And the LORD said",
    "fr": "L'Éternel dit à",
    "de": "Und der HERR redete",
    "es": "Y Jehová habló a",
}
GAPS = (
    ("en", "And the LORD <special1> to Moses."),
    ("fr", "L'Éternel <special1> à Moïse."),
    ("de", "Und der HERR <special1> mit Mose."),
)
TOGETHER = 16


def main() -> int:
    print("xlmstream demo: embedded broker, gateway and worker on this machine, XLM models over gRPC.\n")
    print("Starting ...", end=" ", flush=True)
    begin = time.perf_counter()
    with running.service([str(shipped_models() / name) for name in (CAUSAL, MASKED, LANGUAGE)]) as address:
        print(f"ready after {time.perf_counter() - begin:.1f} s on {address}, serving", end=" ")
        with Client(address) as client:
            print(", ".join(f"{model.name}@{model.version}" for model in client.models()) + ".")
            print("The models are tiny and know one book in four languages: right in phrases, wrong in sense.\n")
            for language, prompt in PROMPTS.items():
                stream_one(client, language, prompt)
            stream_together(client)
            fill_gaps(client)
            find_translations(client)
            tell_languages(client)
    print("Done. Keep a service running with `xlmstream up`, call it with `xlmstream generate 'And the LORD said'`.")
    return 0


def shipped_models() -> Path:
    spec = importlib.util.find_spec("xlmstream_worker")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "demo"


def stream_one(client: Client, language: str, prompt: str) -> None:
    """Print a continuation as it arrives, then what it took."""
    print(f"[{language}] {prompt}", end="", flush=True)
    begin, first, prose = time.perf_counter(), 0.0, Prose()
    with client.generate_stream(
        prompt,
        model=CAUSAL,
        language=language,
        min_new_tokens=12,
        max_new_tokens=48,
        temperature=0.7,
        top_p=0.9,
        seed=7,
    ) as stream:
        for event in stream:
            if isinstance(event, TokenDelta):
                first = first or time.perf_counter() - begin
                print(prose.next(event.text), end="", flush=True)
    wall = time.perf_counter() - begin
    tokens = len(stream.token_ids)
    rate = (tokens - 1) / (wall - first) if tokens > 1 else 0.0
    print(f"\n     first token after {1e3 * first:.0f} ms, {tokens} tokens, {rate:.0f} tokens/s\n", flush=True)


def stream_together(client: Client) -> None:
    """Many streams at once share each step of the model: the batch is re-formed at every token."""

    def one(number: int) -> int:
        language = list(PROMPTS)[number % len(PROMPTS)]
        with client.generate_stream(
            PROMPTS[language], model=CAUSAL, language=language, max_new_tokens=60, ignore_eos=True, temperature=1.0
        ) as stream:
            return len(stream.result().token_ids)

    begin = time.perf_counter()
    with ThreadPoolExecutor(TOGETHER) as pool:
        tokens = sum(pool.map(one, range(TOGETHER)))
    wall = time.perf_counter() - begin
    print(f"{TOGETHER} streams at once: {tokens} tokens in {wall:.2f} s, {tokens / wall:.0f} tokens/s together.\n")


def fill_gaps(client: Client) -> None:
    print("Filling a gap (masked model):")
    for language, text in GAPS:
        [mask] = client.fill_mask(text, model=MASKED, language=language).masks
        guesses = ", ".join(f"{each.piece.removesuffix('</w>')} {each.score:.2f}" for each in mask.candidates[:4])
        print(f"  {text.replace('<special1>', '___'):36} {guesses}")
    print()


def find_translations(client: Client) -> None:
    """Each sentence's translation is the nearest vector among all sentences of the other languages."""
    texts = [(language, text) for language, rows in SENTENCES.items() for text in rows]
    begin = time.perf_counter()
    vectors = [vector.tolist() for vector in client.embed([text for _, text in texts], model=MASKED, normalize=True)]
    wall = time.perf_counter() - begin
    others = [at for at, (language, _) in enumerate(texts) if language != "en"]
    right = 0
    print(f"Finding translations among {len(others)} sentences ({len(texts)} embedded in {1e3 * wall:.0f} ms):")
    for row, text in enumerate(SENTENCES["en"]):
        nearest = max(others, key=lambda at: dot(vectors[row], vectors[at]))  # English comes first in `texts`
        language, found = texts[nearest]
        is_right = found == SENTENCES[language][row]
        right += is_right
        if row < 4:
            print(f"  {text:56} {'=' if is_right else '?'} [{language}] {found}")
    print(f"  ... {right} of {len(SENTENCES['en'])} right.\n")


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def tell_languages(client: Client) -> None:
    texts = [(language, text) for language, rows in SENTENCES.items() for text in rows]
    found = client.classify([text for _, text in texts], model=LANGUAGE)
    right = sum(each.label == language for each, (language, _) in zip(found, texts, strict=True))
    print(f"Telling the language of {len(texts)} sentences: {right} right.\n")


class Prose:
    """Sets streamed tokens as a person would write them: the model's tokens are words and signs apart (l' eau , bleue).

    Only spaces are dropped, and each only once the next sign is known, so the text can be shown while it grows.
    """

    def __init__(self) -> None:
        self._last = " "
        self._space = True  # between the prompt and the continuation

    def next(self, text: str) -> str:
        """What of `text` can be shown now."""
        shown = []
        for character in text:
            if character == " ":
                self._space = True
                continue
            if self._space and character not in ",.;:!?)'" and self._last not in "'(¿¡":
                shown.append(" ")
            shown.append(character)
            self._last, self._space = character, False
        return "".join(shown)


if __name__ == "__main__":
    sys.exit(main())
