"""The measured part of a tagger's card: agreement with the rules that made its labels, with people's tags where a
treebank is given (.jsonl files), and samples."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from xlmstream_worker.xlm import XLMForTokenClassification, XLMTokenizer

from .bars import TAGS as TAG_BARS
from .bars import verdict
from .batches import EOS
from .bpe import END_OF_WORD
from .corpus import ANNOTATED, aligned_files, read_rows
from .export import Training
from .figures import NAMES, Table, table
from .labelled_batches import Example, lang_ids, spelled
from .measure import guessed_labels, label_accuracy, label_quality
from .tag_examples import annotated_examples, ruled_examples
from .tagged_text import TagRules
from .treebank import Annotated, read_annotated
from .word_classes import TAGS

WIDTH = 118
# Written for the card, and before any tagger had read them: what newspapers write, in words that old books lack.
SENTENCES = {
    "de": (
        "Die Bundesregierung will die Preise für Strom und Gas bis zum Winter deutlich senken.",
        "Anna Schmidt arbeitet seit 2015 als Ingenieurin bei einem großen Autohersteller in Stuttgart.",
        "Wegen eines Streiks fallen am Montag fast alle Züge nach Hamburg aus.",
        "Wissenschaftler warnen, dass der Meeresspiegel schneller steigt, als man bisher glaubte.",
        "„Wir haben das Spiel nicht verdient gewonnen“, sagte der Trainer nach dem 2:1 gegen München.",
    ),
    "en": (
        "The government plans to cut the price of electricity and gas before winter.",
        "Anna Smith has worked as an engineer for a large car company in Detroit since 2015.",
        "Because of a strike, almost all trains to London were cancelled on Monday.",
        "Scientists warn that sea levels are rising faster than anyone expected.",
        '"We didn\'t deserve to win this match," the coach told reporters after the 2-1 victory.',
    ),
    "es": (
        "El gobierno quiere bajar el precio de la electricidad y del gas antes del invierno.",
        "Ana García trabaja como ingeniera en una gran empresa de automóviles en Valencia desde 2015.",
        "A causa de una huelga, casi todos los trenes a Madrid fueron cancelados el lunes.",
        "Los científicos advierten que el nivel del mar sube más rápido de lo que se pensaba.",
        "«No merecimos ganar este partido», dijo el entrenador a los periodistas.",
    ),
    "fr": (
        "Le gouvernement veut baisser le prix de l'électricité et du gaz avant l'hiver.",
        "Anne Martin travaille comme ingénieure dans une grande entreprise automobile à Toulouse depuis 2015.",
        "À cause d'une grève, presque tous les trains vers Paris ont été supprimés lundi.",
        "Les scientifiques avertissent que le niveau de la mer monte plus vite qu'on ne le croyait.",
        "« Nous n'avons pas mérité de gagner ce match », a déclaré l'entraîneur aux journalistes.",
    ),
}


def tag_figures(directory: Path, training: Training, files: Sequence[Path]) -> str:
    """Accuracy over held-out words of the treebanks that it was trained on."""
    recipe = training.recipe
    model = XLMForTokenClassification.from_pretrained(directory)
    tokenizer = XLMTokenizer.from_pretrained(directory)
    languages = sorted(recipe.languages)
    held = annotated_examples(files[0], tokenizer, languages, recipe.architecture.max_positions)["test"]
    accuracy = {lang: label_accuracy(model, held[lang]) for lang in languages}
    rows = [
        ["accuracy over words", *(f"{accuracy[lang]:.3f}" for lang in languages)],
        ["words measured", *(f"{_words(held[lang]):,}" for lang in languages)],
    ]
    return f"""\
## Measured on held-out sentences

{table(["tags", *languages], rows)}
{tag_samples_of(directory)}"""


def ruled_tag_figures(directory: Path, training: Training, files: Sequence[Path]) -> str:
    """Agreement with the rules, accuracy against treebanks, samples."""
    recipe = training.recipe
    model = XLMForTokenClassification.from_pretrained(directory)
    tokenizer = XLMTokenizer.from_pretrained(directory)
    languages = sorted(recipe.languages)
    aligned = [row for path in aligned_files(files) for row in read_rows(path, languages)]
    rules = TagRules(aligned, languages)
    examples = ruled_examples(rules, aligned, tokenizer, recipe.architecture.max_positions)
    treebanks = [path for path in files if path.suffix == ANNOTATED]
    parts = [_agreement(model, examples, languages)]
    parts += [_against_people(model, tokenizer, rules, path, training) for path in treebanks]
    return "\n".join([*parts, tag_samples_of(directory)])


def _agreement(
    model: XLMForTokenClassification, examples: Mapping[str, Mapping[str, Sequence[Example]]], languages: Sequence[str]
) -> str:
    rows: Table = [["all words"], ["words unseen in training"], ["words measured"], ["of them unseen"]]
    for lang in languages:
        held = [*examples["valid"][lang], *examples["test"][lang]]
        seen = {word for example in examples["train"][lang] for word in spelled(example)}
        fresh = np.array([word not in seen for example in held for word in spelled(example)])
        labels, guesses = guessed_labels(model, held)
        right = labels == guesses
        for row, cell in zip(
            rows,
            (
                f"{right.mean():.3f}",
                f"{right[fresh].mean():.3f}" if fresh.any() else "",
                f"{len(right):,}",
                f"{int(fresh.sum()):,}",
            ),
            strict=True,
        ):
            row.append(cell)
    return f"""\
## Measured on held-out text (valid and test)

How often the model's tag is that of the rules. This says how well it learned them, not how right they are.

{table(["", *languages], rows)}"""


def _against_people(
    model: XLMForTokenClassification, tokenizer: XLMTokenizer, rules: TagRules, path: Path, training: Training
) -> str:
    recipe = training.recipe
    splits = annotated_examples(path, tokenizer, recipe.languages, recipe.architecture.max_positions, recipe.lang2id)
    examples = {lang: splits["train"][lang] + splits["test"][lang] for lang in sorted(recipe.languages)}
    languages = [lang for lang, found in examples.items() if found]
    guessed = {lang: guessed_labels(model, examples[lang]) for lang in languages}
    accuracy = {lang: float((labels == guesses).mean()) for lang, (labels, guesses) in guessed.items()}
    sentences = list(read_annotated(path))
    ruled = {lang: ruled_accuracy(rules, [each for each in sentences if each.lang == lang]) for lang in languages}
    rows: Table = [
        ["accuracy of the model", *(f"{accuracy[lang]:.3f}" for lang in languages)],
        ["accuracy of the rules", *(f"{ruled[lang]:.3f}" for lang in languages)],
        ["words measured", *(f"{len(guessed[lang][0]):,}" for lang in languages)],
    ]
    for index, tag in enumerate(TAGS):
        quality = [label_quality(*guessed[lang], index) for lang in languages]
        if any(each.count for each in quality):
            cells = (f"{each.f1:.2f} ({each.count:,})" if each.count else "" for each in quality)
            rows.append([f"F1 {tag} (how many)", *cells])
    bar = TAG_BARS.get(training.name)
    aim = verdict(f"an accuracy of at least {bar}", accuracy, dict.fromkeys(accuracy, bar)) if bar else ""
    others = [NAMES.get(lang, lang) for lang in sorted(set(recipe.languages) - set(languages))]
    without = f" There are no such sentences here in {' and '.join(others)}." if others else ""
    count = sum(map(len, examples.values()))
    about = f"""Sentences with the tags that people gave them ({count:,}, none of them seen in training, all
        measured).{without} Written as one text a sentence; fused words stay split as the treebank has them (`de le`).
        The rules read the treebank's own words."""
    return f"""\
## Measured against people: {path.name}

{textwrap.fill(" ".join(about.split()), WIDTH, break_on_hyphens=False)}

{table(["", *languages], rows)}
{aim}"""


def ruled_accuracy(rules: TagRules, sentences: Sequence[Annotated]) -> float:
    """How many of people's tags the rules hit, given the treebank's own words."""
    hits = [
        ours == theirs
        for sentence in sentences
        for ours, theirs in zip(rules.tag_words(sentence.words, sentence.lang), sentence.tags, strict=True)
    ]
    return sum(hits) / len(hits)


def tag_samples_of(directory: Path) -> str:
    """The samples of a tagger's card. No corpus is needed."""
    model = XLMForTokenClassification.from_pretrained(directory)
    tokenizer = XLMTokenizer.from_pretrained(directory)
    names: Mapping[int, str] = model.config.id2label
    samples = []
    for lang, sentences in ((lang, SENTENCES[lang]) for lang in sorted(lang_ids(tokenizer)) if lang in SENTENCES):
        lines = "".join(f"- {tagged_line(model, tokenizer, names, text, lang)}\n" for text in sentences)
        samples.append(f"{NAMES[lang]}:\n\n{lines}")
    return f"""\
## Samples

What newspapers write today, in sentences made up for this card before any tagger read them; all are shown.

{chr(10).join(samples)}"""


@torch.no_grad()
def tagged_line(
    model: XLMForTokenClassification, tokenizer: XLMTokenizer, names: Mapping[int, str], text: str, lang: str
) -> str:
    """A text as `word/TAG word/TAG`, as far as it fits the model's positions; the first piece of a word has its tag."""
    pieces = tokenizer.tokenize(text, lang=lang)[: model.config.max_position_embeddings - 2]
    ids = torch.tensor([[EOS, *tokenizer.convert_tokens_to_ids(pieces), EOS]])
    langs = torch.full_like(ids, lang_ids(tokenizer)[lang]) if model.config.n_langs > 1 else None
    logits = model(ids, langs=langs, return_dict=True).logits
    guesses = logits[0, 1:-1].argmax(-1).tolist()
    shown, word, tag = [], "", ""
    for piece, guess in zip(pieces, guesses, strict=True):
        tag = tag if word else names[guess]
        word += piece
        if piece.endswith(END_OF_WORD):
            shown.append(f"{word.removesuffix(END_OF_WORD)}/{tag}")
            word = ""
    return " ".join(shown)


def _words(examples: Sequence[Example]) -> int:
    return sum(int((example.labels >= 0).sum()) for example in examples)
