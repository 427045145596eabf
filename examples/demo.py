"""What `make demo` runs: start the whole service on this machine, use it, stop it.

Everything is real: an embedded broker, a gateway and a worker as processes of their own (`xlmstream up`), the shipped
demo models, and the client a backend would use.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import running
from sentences import NAMED, PASSAGES, SENTENCES, TAGGED
from showing import Bar, Columns, Prose, Times
from xlmstream import Client, Generation, JobItem, Question, TextInput, TokenDelta

CAUSAL, MASKED = "xlm-clm-demo", "xlm-mlm-demo"
# Heads on the masked model's body, which is loaded once for all of them.
TAGS, ENTITIES, ANSWERS, LANGUAGE = (f"{MASKED}-{head}" for head in ("tags", "entities", "answers", "language"))
MODELS = (CAUSAL, MASKED, TAGS, ENTITIES, ANSWERS, LANGUAGE)
PROMPTS = {
    "en": "And the LORD said",
    "fr": "L'Éternel dit à",
    "de": "Und der HERR redete",
    "es": "Y Jehová habló a",
}
GAPS = {
    "en": "And the LORD <special1> to Moses.",
    "fr": "L'Éternel <special1> à Moïse.",
    "de": "Und der HERR <special1> mit Mose.",
    "es": "Y <special1> Jehová a Moisés.",
}
JOB_ITEMS, JOB_PART = 160, 20


def main() -> int:
    print("xlmstream demo: embedded broker, gateway and worker on this machine, XLM models over gRPC.\n")
    print("Starting ...", end=" ", flush=True)
    begin = time.perf_counter()
    with running.service([str(shipped_models() / name) for name in MODELS]) as address:
        print(f"ready after {time.perf_counter() - begin:.1f} s on {address}, serving", end=" ")
        times = Times()
        with Client(address) as client:
            print(", ".join(f"{model.name}@{model.version}" for model in client.models()) + ".")
            print("The models are tiny and know one book in four languages: right in phrases, wrong in sense.\n")
            for step in (stream_side_by_side, fill_gaps, find_translations, tag_words, mark_names, answer_questions):
                step(client, times)
            tell_languages(client, times)
            run_job(client, times)
        print("Where the time of a request went (means, in ms; together: most that shared a step of the model):\n")
        print(times.table())
    print("Done. Keep a service running with `xlmstream up`, call it with `xlmstream generate 'And the LORD said'`.")
    return 0


def shipped_models() -> Path:
    spec = importlib.util.find_spec("xlmstream_worker")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "demo"


def inputs(texts: Mapping[str, str]) -> list[TextInput]:
    """Texts by their languages."""
    return [TextInput(text=text, language=language) for language, text in texts.items()]


def stream_side_by_side(client: Client, times: Times) -> None:
    """Four streams at once: each step of the model moves all of them on by a token."""
    print("A continuation in each language, four streams at once:\n")
    columns = Columns([f"[{language}]" for language in PROMPTS])

    def one(column: int, language: str) -> Generation:
        columns.add(column, PROMPTS[language])
        prose = Prose()
        with client.generate_stream(
            PROMPTS[language],
            model=CAUSAL,
            language=language,
            min_new_tokens=12,
            max_new_tokens=40,
            temperature=0.7,
            top_p=0.9,
            seed=7,
        ) as stream:
            for event in stream:
                if isinstance(event, TokenDelta):
                    columns.add(column, prose.next(event.text))
            return stream.result()

    begin = time.perf_counter()
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        results = list(pool.map(one, range(len(PROMPTS)), PROMPTS))
    wall = time.perf_counter() - begin
    columns.finish()
    tokens = sum(len(result.token_ids) for result in results)
    print(f"\n  {tokens} tokens, {tokens / wall:.0f} tokens/s together")
    times.note("generate", wall, [result.timing for result in results])


def fill_gaps(client: Client, times: Times) -> None:
    print("Filling a gap (masked model):")
    begin = time.perf_counter()
    filled = client.fill_mask(
        [TextInput(text=text, language=language) for language, text in GAPS.items()], model=MASKED
    )
    wall = time.perf_counter() - begin
    for text, found in zip(GAPS.values(), filled, strict=True):
        guesses = ", ".join(
            f"{each.piece.removesuffix('</w>')} {each.score:.2f}" for each in found.masks[0].candidates[:4]
        )
        print(f"  {text.replace('<special1>', '___'):36} {guesses}")
    times.note("fill_mask", wall, [found.timing for found in filled])


def find_translations(client: Client, times: Times) -> None:
    """Each sentence's translation is the nearest vector among all sentences of the other languages."""
    texts = [(language, text) for language, rows in SENTENCES.items() for text in rows]
    begin = time.perf_counter()
    results = [each.result for each in client.map("embed", [text for _, text in texts], model=MASKED, normalize=True)]
    wall = time.perf_counter() - begin
    vectors = [result.tensor.tolist() for result in results]
    others = [at for at, (language, _) in enumerate(texts) if language != "en"]
    right = 0
    print(f"Finding a sentence's translation among {len(others)} in three languages ({len(texts)} embedded):")
    for row, text in enumerate(SENTENCES["en"]):
        nearest = max(others, key=lambda at: dot(vectors[row], vectors[at]))  # English comes first in `texts`
        language, found = texts[nearest]
        is_right = found == SENTENCES[language][row]
        right += is_right
        if row < 5:
            print(f"  {text:56} {'=' if is_right else '?'} [{language}] {found}")
    print(f"  ... {right} of {len(SENTENCES['en'])} right.")
    times.note("embed", wall, [result.timing for result in results])


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def tag_words(client: Client, times: Times) -> None:
    print("Tagging words with their parts of speech:")
    begin = time.perf_counter()
    tagged = client.tag(inputs(TAGGED), model=TAGS)
    wall = time.perf_counter() - begin
    for found in tagged:
        columns = [(word.text, word.label) for word in found.words]
        for row in zip(*(of_one_width(column) for column in columns), strict=True):
            print("  " + " ".join(row).rstrip())
    times.note("tag", wall, [found.timing for found in tagged])


def of_one_width(column: tuple[str, str]) -> tuple[str, str]:
    """A word and its tag, one as wide as the other."""
    width = max(map(len, column))
    return column[0].ljust(width), column[1].ljust(width)


def mark_names(client: Client, times: Times) -> None:
    print("Marking names and numbers:")
    begin = time.perf_counter()
    tagged = client.tag(inputs(NAMED), model=ENTITIES)
    wall = time.perf_counter() - begin
    for text, found in zip(NAMED.values(), tagged, strict=True):
        marked, at = "", 0
        for entity in found.entities:
            marked += f"{text[at : entity.end]} [{entity.label}]"
            at = entity.end
        print(f"  {marked}{text[at:]}")
    times.note("names", wall, [found.timing for found in tagged])


def answer_questions(client: Client, times: Times) -> None:
    print("Answering questions about a text:")
    asked = [(language, passage, question) for language, (passage, asking) in PASSAGES.items() for question in asking]
    begin = time.perf_counter()
    answers = [
        each.result
        for each in client.map(
            "answer",
            [
                Question(TextInput(text=question, language=language), TextInput(text=passage, language=language))
                for language, passage, question in asked
            ],
            model=ANSWERS,
        )
    ]
    wall = time.perf_counter() - begin
    told, right = "", 0
    for (language, passage, question), answer in zip(asked, answers, strict=True):
        if passage != told:
            print(f"  [{language}] {passage}")
            told = passage
        is_right = answer.text == PASSAGES[language][1][question]
        right += is_right
        print(f"     {'=' if is_right else '?'} {question} {answer.text} ({answer.score:.2f})")
    print(f"  ... {right} of {len(asked)} right.")
    times.note("answer", wall, [answer.timing for answer in answers])


def tell_languages(client: Client, times: Times) -> None:
    texts = [(language, text) for language, rows in SENTENCES.items() for text in rows]
    begin = time.perf_counter()
    found = client.classify([text for _, text in texts], model=LANGUAGE)
    wall = time.perf_counter() - begin
    right = sum(each.label == language for each, (language, _) in zip(found, texts, strict=True))
    print(f"Telling the language of {len(texts)} sentences: {right} right.")
    times.note("classify", wall, [each.timing for each in found])


def run_job(client: Client, times: Times) -> None:
    """Many inputs that nobody waits for: stored first, worked off behind whatever is interactive."""
    prompts = [
        JobItem(f"{language}-{number}", TextInput(text=prompt, language=language))
        for number in range(JOB_ITEMS // len(PROMPTS))
        for language, prompt in PROMPTS.items()
    ]
    print(f"An offline job, {len(prompts)} texts to be continued:")
    begin = time.perf_counter()
    job = client.jobs.create("generate", model=CAUSAL, min_new_tokens=8, max_new_tokens=32, temperature=0.8)
    for at in range(0, len(prompts), JOB_PART):  # as a backend reads its rows; what is stored begins to run
        job.upload(prompts[at : at + JOB_PART])
    job.seal()
    bar = Bar("generate")
    with job.watch() as watch:
        for info in watch:
            done = info.counts.succeeded + info.counts.failed
            bar.show(done, len(prompts), f"{time.perf_counter() - begin:.1f} s")
    with job.results() as results:
        found = {result.key: result.result for result in results}
    wall = time.perf_counter() - begin
    for key in [f"{language}-0" for language in PROMPTS]:
        print(f"  {key}: {PROMPTS[key[:2]]}{Prose().next(found[key].text)}")
    tokens = sum(len(each.token_ids) for each in found.values())
    print(f"  {job.refresh().state}: {len(found)} results, {tokens} tokens, {tokens / wall:.0f} tokens/s")
    times.note("job", wall, [each.timing for each in found.values()])
    job.delete()


if __name__ == "__main__":
    sys.exit(main())
