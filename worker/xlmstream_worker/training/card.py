"""The model card: README.md of a model directory, every figure measured as it is written.

`write_card` is the only author of these files: what a card says can be recomputed by running it again on the corpora.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from xlmstream_worker.xlm import XLMConfig, XLMEncoderDecoderConfig
from xlmstream_worker.xlm.checkpoint import BASE_PREFIX, read_weights
from xlmstream_worker.xlm.shared_body import body_directory

from .checkpoint import Stage
from .export import Training, read_training
from .figures import (
    NAMES,
    answer_figures,
    causal_figures,
    entity_figures,
    language_figures,
    masked_figures,
)
from .recipe import HEADS, Objective
from .tag_figures import ruled_tag_figures, tag_figures
from .translation_figures import translation_figures

WIDTH = 118
VERSES = """\
Derived from public-domain texts: the World English Bible, Louis Segond 1910 (French), the Lutherbibel of 1912 (German)
and Reina-Valera 1909 (Spanish), aligned by verse and split by whole chapters (every 40th to valid, every 40th to test).
"""
PAIRS = """\
Also sentence pairs of [Tatoeba](https://tatoeba.org), CC BY 2.0 FR.
"""
PAIRS_FOR_VOCABULARY = """\
The vocabulary was also learned from sentence pairs of [Tatoeba](https://tatoeba.org), CC BY 2.0 FR.
"""
TREEBANKS = """\
Trained on annotated sentences (JSON lines); their licence may bind these weights.
"""
WORD_CLASSES = """\
The labels are made by rules, not by people: hand-written lists of the closed classes and of common words, endings,
capital letters and a table of names; a hidden Markov model whose first guess is written by hand, fitted to the
untagged text by expectation maximisation, decides between the classes in a sentence, and words lean towards what their
translations are. The tags are those of [Universal Dependencies](https://universaldependencies.org), as the rules
understand them. No annotated sentence and no other tagger had a part in the training. While rules and training were
developed, the tags of UD PUD were consulted twice, to measure: once the rules, once an early network. Which tags were
confused most was seen then, and some of the rules' corrections and the training on rare words followed from it; no
number was fitted to them. Its first sentences were read for its conventions (`his` is a pronoun) before the lists were
written.
"""
RULES = """\
The labels are made by rules, not by people: DIVINE and NUMBER are short lists of words; a name is a word that is always
capitalised inside sentences (in German: and that resembles a name of the other translations); whether it is a PERSON, a
PLACE or a PEOPLE follows from the words around it in English (`land of`, `son of`, `said`), for all its occurrences
alike, and is carried over to its translations. Judah, the man, is a PLACE here.
"""
TEMPLATES = """\
The questions are made from the verses by templates, in all four languages: who did what the verse says, to whom
somebody spoke, whose son, where to, king of what, how many. They repeat the words of the verse; the context is that
verse and up to four around it.
"""
HEADS_TOO = """\
Where heads were trained with it, their labels come from the same texts, as their cards say.
"""
OURS = """\
The weights are under the licence of this package, Apache-2.0. The texts are not part of it; `xlmstream-train corpora`
says where they come from.
"""
PURPOSES = {
    "causal": "continues text",
    "masked": "fills gaps and embeds sentences",
    "translation": "translates",
    "language": "says which language a text is in",
    "tags": "tags words with their parts of speech",
    "ruled_tags": "tags words with their parts of speech",
    "entities": "marks names and numbers",
    "answers": "finds the answer to a question in a text",
}
FIGURES = {
    "causal": causal_figures,
    "masked": masked_figures,
    "translation": translation_figures,
    "language": language_figures,
    "tags": tag_figures,
    "ruled_tags": ruled_tag_figures,
    "entities": entity_figures,
    "answers": answer_figures,
}
SOURCES = {
    "causal": (VERSES, PAIRS_FOR_VOCABULARY, OURS),
    "masked": (VERSES, PAIRS, HEADS_TOO, OURS),
    "translation": (VERSES, PAIRS, OURS),
    "language": (VERSES, PAIRS, OURS),
    "tags": (TREEBANKS,),
    "ruled_tags": (VERSES, PAIRS, WORD_CLASSES, OURS),
    "entities": (VERSES, RULES, OURS),
    "answers": (VERSES, TEMPLATES, OURS),
}


def write_card(directory: Path, files: Sequence[Path]) -> str:
    """Measure the model on the held-out text of `files` and write its README.md; returns the text."""
    card = make_card(directory, files)
    (directory / "README.md").write_text(card, encoding="utf-8")
    return card


def make_card(directory: Path, files: Sequence[Path]) -> str:
    """The card of the model in `directory`."""
    training = read_training(directory)
    kind = _kind(training)
    parts = [
        _head(training, directory),
        "## Corpus, attribution, licence\n\n" + "\n".join(SOURCES[kind]),
        _recipe(training, directory),
        FIGURES[kind](directory, training, files),
        _reproduce(training, directory, files),
    ]
    return "\n".join(parts)


def _kind(training: Training) -> str:
    if training.recipe.translates:
        return "translation"
    return training.objective or ("causal" if training.recipe.causal else "masked")


def _head(training: Training, directory: Path) -> str:
    recipe = training.recipe
    if recipe.translates:
        config, sides = XLMEncoderDecoderConfig.from_pretrained(directory).decoder, "an encoder and a decoder, each of "
    else:
        config, sides = XLMConfig.from_pretrained(directory), ""
    tensors = read_weights(directory)
    millions = sum(tensor.numel() for tensor in tensors.values()) / 1e6
    languages = ", ".join(NAMES.get(lang, lang) for lang in sorted(recipe.languages))
    layers = "1 layer" if config.n_layers == 1 else f"{config.n_layers} layers"
    about = f"""A small XLM that {PURPOSES[_kind(training)]}, in {languages}: something real to try the service with.
        It has {sides}{layers} of width {config.emb_dim}, {config.n_heads} heads, {config.max_position_embeddings}
        positions and {config.vocab_size:,} cased byte pairs: {millions:.1f} M parameters, stored in fp16. It was
        trained as XLM was, on `</s> X </s>`, and is served so (`xlmstream.json`). It knows the prose of a few old
        books and little else: no facts, few modern words, no judgement."""
    if body := body_directory(directory):
        own = sum(tensor.numel() for name, tensor in tensors.items() if not name.startswith(BASE_PREFIX))
        about += f""" All but {own:,} of these parameters are the body's, which lies in `{body.name}` and which other
            heads share."""
    elif recipe.heads and not recipe.head:
        beside = ", ".join(f"`{directory.name}-{HEADS[objective]}`" for objective in recipe.heads)
        about += f" Heads on its body lie beside it: {beside}."
    return f"# {training.name}\n\n{_filled(about)}"


def _recipe(training: Training, directory: Path) -> str:
    if body := body_directory(directory):
        card = f"[{body.name}](../{body.name}/README.md)"
        text = f"""Trained together with its body and the other heads on it; the card of {card} says how. Its own
            objective: {training.objective}."""
        return f"## Recipe\n\n{_filled(text)}"
    parts = [_way(training)]
    while training.before:
        training = training.before
        parts.insert(0, _way(training))
    steps = parts if len(parts) == 1 else [f"{number}. {part}" for number, part in enumerate(parts, start=1)]
    return f"## Recipe\n\n{chr(10).join(map(_filled, steps))}\n![losses over the steps](curve.svg)\n"


def _way(training: Training) -> str:
    """One training, in words."""
    recipe, progress = training.recipe, training.progress
    schedule = recipe.schedule
    objectives = ", ".join(_objective(name, entry) for name, entry in recipe.objectives.items())
    start = f", from the weights of `{Path(recipe.init).name}`" if recipe.init else ""
    if recipe.init_decoder:
        start += f" (encoder) and `{Path(recipe.init_decoder).name}` (decoder; see its card)"
    text = f"""Objectives: {objectives}{start}. {progress.step:,} steps, {progress.tokens / 1e6:.1f} M tokens, in
        {progress.seconds / 60:,.0f} min in the background of two busy CPU cores. Muon for the layers' matrices and
        AdamW for the rest, peak learning rate {schedule.peak_lr:g} after {schedule.warmup_steps} steps of warm-up,
        held for {schedule.hold:.0%} of the steps after it, then a cosine to zero; dropout
        {recipe.architecture.dropout:g}, seed {recipe.seed}. Kept: the weights with the lowest validation loss (step
        {progress.best_step:,}). The whole recipe is in `training.json`."""
    return text + _changes(training)


def _changes(training: Training) -> str:
    """What to say of a run that was resumed by another recipe than it began with."""
    if len(training.stages) < 2:
        return ""
    parts = "; ".join(f"from step {stage.from_step:,} {_stage(stage)}" for stage in training.stages)
    return f" The recipe was changed on the way (`stages.json`): {parts}."


def _stage(stage: Stage) -> str:
    objectives = ", ".join(_objective(name, entry) for name, entry in stage.objectives.items())
    return f"{objectives}, a schedule of {stage.schedule.steps:,} steps"


def _filled(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), WIDTH, break_on_hyphens=False) + "\n"


def _objective(name: str, entry: Objective) -> str:
    title = name.upper() if name in ("clm", "mlm", "tlm") else {"ranking": "translation ranking"}.get(name, name)
    if name == "ranking":
        title += f" of {entry.batch_pairs} pairs"
    if entry.smoothing:
        title += f" with label smoothing {entry.smoothing:g}"
    if entry.neighbours > 1:
        title += f", {entry.neighbours} neighbours together"
    often = f" in one step of {entry.every}" if entry.every > 1 else ""
    return f"{title}{often}" if entry.weight == 1 else f"{title} (weight {entry.weight:g}){often}"


def _reproduce(training: Training, directory: Path, files: Sequence[Path]) -> str:
    names = " ".join(path.name for path in files)
    text = f"`xlmstream-train card MODEL {names}` measures every figure and draws every sample above again."
    if not body_directory(directory):
        more = "; `--init MODEL` goes on from the weights of the one before" if training.before else ""
        text += f"""
            `xlmstream-train run RECIPE ... --run RUN` trains such a model; recipes are in `training.json`{more}."""
    return f"## Recompute\n\n{_filled(text)}"
