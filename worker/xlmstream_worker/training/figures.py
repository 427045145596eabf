"""The measured part of a model card, by kind of model: tables and samples as Markdown."""

from collections.abc import Sequence
from pathlib import Path

from xlmstream_worker.xlm import (
    XLMForSequenceClassification,
    XLMForTokenClassification,
    XLMTokenizer,
    XLMWithLMHeadModel,
)

from .corpus import encode_files
from .labelled_batches import language_examples, tag_examples
from .measure import (
    embed,
    fill_mask_accuracy,
    held_out,
    label_accuracy,
    perplexity,
    retrieval_accuracy,
    snippets,
)
from .recipe import Recipe
from .samples import sample_texts
from .tasks import reader

NAMES = {"de": "German", "en": "English", "es": "Spanish", "fr": "French"}
PROMPTS = {"de": "Und der HERR", "en": "And the LORD said to", "es": "Y Jehová dijo", "fr": "L'Éternel dit à Moïse:"}
SAMPLES, SAMPLE_TOKENS, TEMPERATURE = 5, 40, 0.7
HELD_OUT_ROWS = 1000
SNIPPET_WORDS = (3, 5)

Table = list[list[str]]


def causal_figures(directory: Path, recipe: Recipe, files: Sequence[Path]) -> str:
    """Perplexities and samples."""
    model, tokenizer = XLMWithLMHeadModel.from_pretrained(directory), XLMTokenizer.from_pretrained(directory)
    corpus = encode_files(files, recipe.languages, reader(recipe, tokenizer))
    languages = sorted(recipe.languages)
    rows: Table = []
    for split in ("valid", "test"):
        running = [perplexity(model, tokenizer, corpus[split], lang) for lang in languages]
        alone = [perplexity(model, tokenizer, corpus[split], lang, per_sentence=True) for lang in languages]
        rows += [
            [f"{split}, verses in sequence, per token", *(f"{value.per_token:.1f}" for value in running)],
            [f"{split}, verses in sequence, per word", *(f"{value.per_word:.1f}" for value in running)],
            [f"{split}, each verse alone, per token", *(f"{value.per_token:.1f}" for value in alone)],
        ]
    samples = []
    for lang in languages:
        for prompt in ("", PROMPTS.get(lang, "")):
            drawn = sample_texts(model, tokenizer, prompt, lang, SAMPLES, SAMPLE_TOKENS, TEMPERATURE)
            title = f"prompt `{prompt}`" if prompt else "no prompt"
            samples.append(f"{NAMES.get(lang, lang)}, {title}:\n\n" + "".join(f"- {text}\n" for text in drawn))
    return f"""\
## Measured on held-out chapters

{_table(["perplexity", *languages], rows)}
In sequence: consecutive verses share the model's positions, as in training. Every token counts once, the `</s>` after
each verse included; words are those of the Moses rules.

## Samples

The first {SAMPLES} draws each (seeds 1 to {SAMPLES}), temperature {TEMPERATURE}, at most {SAMPLE_TOKENS} tokens,
nothing left out.

{chr(10).join(samples)}"""


def masked_figures(directory: Path, recipe: Recipe, files: Sequence[Path]) -> str:
    """Mask filling and translation retrieval."""
    model, tokenizer = XLMWithLMHeadModel.from_pretrained(directory), XLMTokenizer.from_pretrained(directory)
    corpus = encode_files(files, recipe.languages, reader(recipe, tokenizer))
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
    return f"""\
## Measured on held-out chapters

One token of each of {HELD_OUT_ROWS:,} sentences, drawn at random, is masked; how often the model's guesses hold it:

{_table(["fill-mask", *languages], fill_rows)}
The translation of a verse is looked for among {len(aligned[languages[0]]):,} held-out verses by the cosine of
mean-pooled vectors, languages not stated; how often the nearest is the right one (from the row's language to the
column's):

{_table(["from, to", *languages], retrieval_rows)}"""


def language_figures(directory: Path, recipe: Recipe, files: Sequence[Path]) -> str:
    """Accuracy on held-out sentences of each file and on their first words."""
    model = XLMForSequenceClassification.from_pretrained(directory)
    tokenizer = XLMTokenizer.from_pretrained(directory)
    languages = sorted(recipe.languages)
    rows: Table = []
    for path in files:
        corpus = encode_files([path], recipe.languages, reader(recipe, tokenizer))
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
        for what, groups in {"whole sentences": examples, **shorter}.items():
            right = {lang: label_accuracy(model, group) for lang, group in groups.items()}
            mean = sum(right.values()) / len(right)
            cells = (f"{right[lang]:.4f}" if lang in right else "" for lang in languages)
            rows.append([f"{path.name.split('.')[0]}, {what}", *cells, f"{mean:.4f}"])
    return f"""\
## Measured on held-out sentences (valid and test)

{_table(["accuracy", *languages, "mean"], rows)}"""


def tag_figures(directory: Path, recipe: Recipe, files: Sequence[Path]) -> str:
    """Accuracy over held-out words."""
    model = XLMForTokenClassification.from_pretrained(directory)
    tokenizer = XLMTokenizer.from_pretrained(directory)
    languages = sorted(recipe.languages)
    held = tag_examples(files[0], tokenizer, languages, recipe.architecture.max_positions)["test"]
    accuracy = {lang: label_accuracy(model, held[lang]) for lang in languages}
    words = {lang: sum(int((example.labels >= 0).sum()) for example in held[lang]) for lang in languages}
    rows = [
        ["accuracy over words", *(f"{accuracy[lang]:.3f}" for lang in languages)],
        ["words measured", *(f"{words[lang]:,}" for lang in languages)],
    ]
    return f"""\
## Measured on held-out sentences

{_table(["tags", *languages], rows)}"""


def _table(header: list[str], rows: Table) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
