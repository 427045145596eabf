"""The measured part of a model card, by kind of model: tables and samples as Markdown."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xlmstream_worker.xlm import (
    XLMForQuestionAnsweringSimple,
    XLMForSequenceClassification,
    XLMForTokenClassification,
    XLMTokenizer,
    XLMWithLMHeadModel,
)

from .answers import Reading, asked_readings, made_readings
from .bars import LANGUAGE, PERPLEXITY, RETRIEVAL, verdict
from .corpus import ANNOTATED, aligned_files, encode_files, read_rows
from .export import Training
from .head_tasks import reader, with_all_languages
from .labelled_batches import entity_examples, language_examples, spelled
from .measure import (
    embed,
    fill_mask_accuracy,
    guessed_labels,
    held_out,
    label_accuracy,
    label_quality,
    lang_ids,
    perplexity,
    retrieval_accuracy,
    snippets,
)
from .names import ENTITIES, PIVOT
from .samples import sample_texts
from .span_measure import answer_quality, best_span

NAMES = {"de": "German", "en": "English", "es": "Spanish", "fr": "French"}
PROMPTS = {"de": "Und der HERR", "en": "And the LORD said to", "es": "Y Jehová dijo", "fr": "L'Éternel dit à Moïse:"}
SAMPLES, SAMPLE_TOKENS, TEMPERATURE = 5, 40, 0.7
HELD_OUT_ROWS = 1000
SNIPPET_WORDS = (3, 5)
WHOLE = "whole sentences"

Table = list[list[str]]


def causal_figures(directory: Path, training: Training, files: Sequence[Path]) -> str:
    """Perplexities and samples."""
    recipe = training.recipe
    model, tokenizer = XLMWithLMHeadModel.from_pretrained(directory), XLMTokenizer.from_pretrained(directory)
    corpus = encode_files(files, recipe.languages, reader(None, tokenizer))
    languages = sorted(recipe.languages)
    rows: Table = []
    reached: dict[str, float] = {}
    for split in ("valid", "test"):
        running = [perplexity(model, tokenizer, corpus[split], lang) for lang in languages]
        alone = [perplexity(model, tokenizer, corpus[split], lang, per_sentence=True) for lang in languages]
        if split == "valid":
            reached = {lang: value.per_token for lang, value in zip(languages, running, strict=True)}
        rows += [
            [f"{split}, verses in sequence, per token", *(f"{value.per_token:.1f}" for value in running)],
            [f"{split}, verses in sequence, per word", *(f"{value.per_word:.1f}" for value in running)],
            [f"{split}, each verse alone, per token", *(f"{value.per_token:.1f}" for value in alone)],
        ]
    bars = PERPLEXITY.get(training.name)
    aim = verdict("validation perplexity per token in sequence", reached, bars, at_most=True) if bars else ""
    return f"""\
## Measured on held-out chapters

{table(["perplexity", *languages], rows)}
In sequence: consecutive verses share the model's positions, as in training. Every token counts once, the `</s>` after
each verse included; words are those of the Moses rules.

{aim}
{samples_of(directory)}"""


def samples_of(directory: Path) -> str:
    """The samples of a causal model's card: the first draws, out of nothing and after a prompt. No corpus is needed."""
    model, tokenizer = XLMWithLMHeadModel.from_pretrained(directory), XLMTokenizer.from_pretrained(directory)
    samples = []
    for lang in sorted(lang_ids(model)):
        for prompt in ("", PROMPTS.get(lang, "")):
            drawn = sample_texts(model, tokenizer, prompt, lang, SAMPLES, SAMPLE_TOKENS, TEMPERATURE)
            title = f"prompt `{prompt}`" if prompt else "no prompt"
            samples.append(f"{NAMES.get(lang, lang)}, {title}:\n\n" + "".join(f"- {text}\n" for text in drawn))
    return f"""\
## Samples

The first {SAMPLES} draws each (seeds 1 to {SAMPLES}), temperature {TEMPERATURE}, at most {SAMPLE_TOKENS} tokens,
nothing left out.

{chr(10).join(samples)}"""


def masked_figures(directory: Path, training: Training, files: Sequence[Path]) -> str:
    """Mask filling and translation retrieval."""
    recipe = training.recipe
    model, tokenizer = XLMWithLMHeadModel.from_pretrained(directory), XLMTokenizer.from_pretrained(directory)
    corpus = encode_files(files, recipe.languages, reader(None, tokenizer))
    languages = sorted(recipe.languages)
    filled = {lang: fill_mask_accuracy(model, held_out(corpus, [lang], HELD_OUT_ROWS)[lang]) for lang in languages}
    fill_rows = [[f"among the best {k}", *(f"{filled[lang][k]:.3f}" for lang in languages)] for k in (1, 5)]
    aligned = held_out(corpus, languages, HELD_OUT_ROWS)
    vectors = {lang: embed(model, aligned[lang]) for lang in languages}
    retrieval_rows = []
    for left in languages:
        found = (
            "" if left == right else f"{retrieval_accuracy(vectors[left], vectors[right]):.3f}" for right in languages
        )
        retrieval_rows.append([left, *found])
    bar, others = RETRIEVAL.get(training.name), [lang for lang in languages if lang != PIVOT]
    directions = {
        f"{left} to {right}": retrieval_accuracy(vectors[left], vectors[right])
        for other in others
        for left, right in ((PIVOT, other), (other, PIVOT))
        if bar
    }
    aim = verdict(f"at least {bar} from and to English", directions, dict.fromkeys(directions, bar)) if bar else ""
    return f"""\
## Measured on held-out chapters

One token of each of {HELD_OUT_ROWS:,} sentences, drawn at random, is masked; how often the model's guesses hold it:

{table(["fill-mask", *languages], fill_rows)}
The translation of a verse is looked for among {len(aligned[languages[0]]):,} held-out verses by the cosine of
mean-pooled vectors, languages not stated; how often the nearest is the right one (from the row's language to the
column's):

{table(["from, to", *languages], retrieval_rows)}
{aim}"""


def language_figures(directory: Path, training: Training, files: Sequence[Path]) -> str:
    """Accuracy on held-out sentences of each file and on their first words."""
    recipe = training.recipe
    model = XLMForSequenceClassification.from_pretrained(directory)
    tokenizer = XLMTokenizer.from_pretrained(directory)
    languages = sorted(recipe.languages)
    rows: Table = []
    means: dict[str, float] = {}
    for path in files:
        corpus = encode_files([path], recipe.languages, reader("language", tokenizer))
        examples = {
            lang: [
                example
                for split in ("valid", "test")
                for example in language_examples(
                    {lang: corpus[split][lang]}, recipe.lang2id, recipe.architecture.max_positions
                )
            ]
            for lang in languages
            if len(corpus["valid"][lang].ids)
        }
        shorter = {
            f"first {words} tokens": {lang: snippets(rows_of, words) for lang, rows_of in examples.items()}
            for words in SNIPPET_WORDS
        }
        for what, groups in {WHOLE: examples, **shorter}.items():
            right = {lang: label_accuracy(model, group) for lang, group in groups.items()}
            mean = sum(right.values()) / len(right)
            cells = (f"{right[lang]:.4f}" if lang in right else "" for lang in languages)
            rows.append([f"{path.name.split('.')[0]}, {what}", *cells, f"{mean:.4f}"])
            if what == WHOLE:
                means[path.name.split(".")[0]] = mean
    bar = LANGUAGE.get(training.name)
    aim = verdict(f"at least {bar} on whole sentences", means, dict.fromkeys(means, bar)) if bar else ""
    return f"""\
## Measured on held-out sentences (valid and test)

{table(["accuracy", *languages, "mean"], rows)}
{aim}"""


def entity_figures(directory: Path, training: Training, files: Sequence[Path]) -> str:
    """Agreement with the rules on held-out chapters, label by label, and on words that training did not show."""
    recipe = training.recipe
    model = XLMForTokenClassification.from_pretrained(directory)
    tokenizer = XLMTokenizer.from_pretrained(directory)
    languages = sorted(recipe.languages)
    aligned = [row for path in with_all_languages(files, languages) for row in read_rows(path, languages)]
    examples = entity_examples(aligned, languages, tokenizer, recipe.architecture.max_positions)
    rows: Table = [[f"{what} {name}"] for name in ENTITIES[1:] for what in ("F1", "F1 on unseen words,")]
    counts: Table = [["words measured"], ["of them unseen and named"]]
    for lang in languages:
        held = examples["valid"][lang] + examples["test"][lang]
        seen = {word for example in examples["train"][lang] for word in spelled(example)}
        fresh = np.array([word not in seen for example in held for word in spelled(example)])
        labels, guesses = guessed_labels(model, held)
        for index in range(1, len(ENTITIES)):
            for place, chosen in enumerate((np.ones_like(fresh), fresh)):
                quality = label_quality(labels[chosen], guesses[chosen], index)
                rows[2 * index - 2 + place].append(f"{quality.f1:.3f}" if quality.count else "")
        counts[0].append(f"{len(labels):,}")
        counts[1].append(f"{int((labels[fresh] > 0).sum()):,}")
    return f"""\
## Measured on held-out chapters (valid and test)

How well the model's labels agree with those of the rules (harmonic mean of precision and recall). The rules err, too:
nobody has checked these labels by hand. Unseen words do not occur in the training chapters.

{table(["", *languages], rows + counts)}"""


def answer_figures(directory: Path, training: Training, files: Sequence[Path]) -> str:
    """Exact match and F1 on template questions about held-out chapters, and on questions of people (.jsonl files)."""
    recipe = training.recipe
    model = XLMForQuestionAnsweringSimple.from_pretrained(directory)
    tokenizer = XLMTokenizer.from_pretrained(directory)
    languages = sorted(recipe.languages)
    made = made_readings(
        with_all_languages(aligned_files(files), languages),
        languages,
        tokenizer,
        recipe.architecture.max_positions,
        ("valid", "test"),
    )
    held = made["valid"] + made["test"]
    groups = {"template questions, held-out chapters": held}
    groups |= {
        f"{path.name}, questions of people": asked_readings(path, languages, tokenizer)
        for path in files
        if path.suffix == ANNOTATED
    }
    rows: Table = []
    for name, group in groups.items():
        found = {lang: [reading for reading in group if reading.lang == lang] for lang in languages}
        quality = {lang: answer_quality(model, readings) for lang, readings in found.items() if readings}
        shown = {
            "exact match": {lang: f"{each.exact:.3f}" for lang, each in quality.items()},
            "F1": {lang: f"{each.f1:.3f}" for lang, each in quality.items()},
            "how many": {lang: f"{each.count:,}" for lang, each in quality.items()},
        }
        rows += [[f"{name}: {what}", *(cells.get(lang, "") for lang in languages)] for what, cells in shown.items()]
    samples = [_answered(model, tokenizer, next(r for r in held if r.lang == lang)) for lang in languages]
    return f"""\
## Measured

The best span of at most 15 tokens against the answer: exactly the same words, and F1 over words; case and punctuation
aside. Questions of people, where there are any, are unlike the training and no part of it.

{table(["", *languages], rows)}
The first held-out question of each language:

{"".join(samples)}"""


def _answered(model: XLMForQuestionAnsweringSimple, tokenizer: XLMTokenizer, reading: Reading) -> str:
    first, last = best_span(model, reading)
    question, guess = (
        tokenizer.decode(list(reading.question)),
        tokenizer.decode(list(reading.context[first : last + 1])),
    )
    return f"- {question} **{guess}** (right: {' '.join(reading.answer)})\n"


def table(header: list[str], rows: Table) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
