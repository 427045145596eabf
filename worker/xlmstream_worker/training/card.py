"""The model card: README.md of a model directory, every figure measured as it is written.

`write_card` is the only author of these files: what a card says can be recomputed by running it again on the corpora.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from xlmstream_worker.xlm import XLMTokenizer, XLMWithLMHeadModel

from .corpus import Aligned, encode_files
from .export import Training, read_training
from .measure import embed, fill_mask_accuracy, held_out, perplexity, retrieval_accuracy
from .samples import sample_texts
from .vocabulary import encode_words

NAMES = {"de": "German", "en": "English", "es": "Spanish", "fr": "French"}
PROMPTS = {"de": "Und der HERR", "en": "And the Lord said", "es": "Y dijo", "fr": "L'Éternel dit à Moïse:"}
SAMPLES, SAMPLE_TOKENS, TEMPERATURE = 5, 40, 0.7
RETRIEVAL_ROWS = 1000

ATTRIBUTION = """\
Derived from public-domain texts: the World English Bible, Louis Segond 1910 (French), the Lutherbibel of 1912 (German)
and Reina-Valera 1909 (Spanish), aligned by verse and split by whole chapters (every 40th to valid, every 40th to test).
The vocabulary was also learned from sentence pairs of [Tatoeba](https://tatoeba.org) (CC BY 2.0 FR). The texts
themselves are not part of this package; `xlmstream-train corpora` says where they come from. The weights are under the
licence of the package, Apache-2.0.
"""

Table = list[list[str]]


def write_card(directory: Path, files: Sequence[Path]) -> str:
    """Measure the model on the held-out text of `files` and write its README.md; returns the text."""
    card = make_card(directory, files)
    (directory / "README.md").write_text(card, encoding="utf-8")
    return card


def make_card(directory: Path, files: Sequence[Path]) -> str:
    """The card of the model in `directory`."""
    model = XLMWithLMHeadModel.from_pretrained(directory)
    tokenizer = XLMTokenizer.from_pretrained(directory)
    training = read_training(directory)
    corpus = encode_files(files, training.recipe.languages, partial(encode_words, tokenizer))
    measured = _causal_figures if training.recipe.causal else _masked_figures
    parts = [
        _head(training, model),
        f"## Corpus, attribution, licence\n\n{ATTRIBUTION}",
        _recipe(training),
        measured(model, tokenizer, corpus, sorted(training.recipe.languages)),
        _reproduce(training, files),
    ]
    return "\n".join(parts)


def _head(training: Training, model: XLMWithLMHeadModel) -> str:
    recipe, config = training.recipe, model.config
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    languages = ", ".join(NAMES.get(lang, lang) for lang in sorted(recipe.languages))
    what = "causal: it continues text" if recipe.causal else "masked: it fills gaps and embeds sentences"
    return f"""\
# {recipe.name}

A small XLM ({what}) in {languages}, to try the service with. {config.n_layers} layers of width {config.emb_dim},
{config.n_heads} heads, {config.max_position_embeddings} positions, {config.vocab_size} cased byte pairs, language
embeddings: {millions:.1f} M parameters, stored in fp16. It was trained as XLM was, on `</s> X </s>`, and is served so.

It knows the prose of one book in old translations and nothing else: no facts, no modern vocabulary, no judgement. Do
not use what it writes for anything but watching tokens arrive.
"""


def _recipe(training: Training) -> str:
    recipe, progress = training.recipe, training.progress
    schedule = recipe.schedule
    objectives = ", ".join(
        f"{name.upper() if name != 'ranking' else 'translation ranking'} (weight {settings.weight:g})"
        for name, settings in recipe.objectives.items()
    )
    start = f", from the weights of `{Path(recipe.init).name}`" if recipe.init else ""
    return f"""\
## Recipe

{objectives}{start}; {progress.step:,} steps, {progress.tokens / 1e6:.1f} M tokens,
{progress.seconds / 3600:.1f} hours on two shared CPU cores. Muon for the layers' matrices and AdamW for the rest, peak
learning rate {schedule.peak_lr:g} after {schedule.warmup_steps} steps of warm-up, cosine decay over the last part,
dropout {recipe.architecture.dropout:g}, seed {recipe.seed}. Kept: the weights with the lowest validation loss
(step {progress.best_step:,}). The whole recipe is in `training.json`.
"""


def _causal_figures(
    model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, corpus: dict[str, Aligned], languages: list[str]
) -> str:
    rows: Table = []
    for split in ("valid", "test"):
        texts = corpus[split]
        running = [perplexity(model, tokenizer, texts, lang) for lang in languages]
        alone = [perplexity(model, tokenizer, texts, lang, per_sentence=True) for lang in languages]
        rows += [
            [f"{split}, verses in sequence, per token", *(f"{value.per_token:.1f}" for value in running)],
            [f"{split}, verses in sequence, per word", *(f"{value.per_word:.1f}" for value in running)],
            [f"{split}, each verse alone, per token", *(f"{value.per_token:.1f}" for value in alone)],
        ]
    table = _table(["perplexity", *languages], rows)
    samples = []
    for lang in languages:
        for prompt in ("", PROMPTS.get(lang, "")):
            drawn = sample_texts(model, tokenizer, prompt, lang, SAMPLES, SAMPLE_TOKENS, TEMPERATURE)
            title = f"prompt `{prompt}`" if prompt else "no prompt"
            samples.append(f"{NAMES.get(lang, lang)}, {title}:\n\n" + "".join(f"- {text}\n" for text in drawn))
    return f"""\
## Measured on held-out chapters

{table}
In sequence: consecutive verses share the model's positions, as in training. Every token counts once, the `</s>` after
each verse included; words are those of the Moses rules.

## Samples

The first {SAMPLES} draws each (seeds 1 to {SAMPLES}), temperature {TEMPERATURE}, at most {SAMPLE_TOKENS} tokens,
nothing left out.

{chr(10).join(samples)}"""


def _masked_figures(
    model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, corpus: dict[str, Aligned], languages: list[str]
) -> str:
    sentences = {lang: held_out(corpus, [lang], RETRIEVAL_ROWS)[lang] for lang in languages}
    filled = {lang: fill_mask_accuracy(model, sentences[lang]) for lang in languages}
    fill_rows = [[f"among the best {k}", *(f"{filled[lang][k]:.3f}" for lang in languages)] for k in (1, 5)]
    aligned = held_out(corpus, languages, RETRIEVAL_ROWS)
    vectors = {lang: embed(model, aligned[lang]) for lang in languages}
    retrieval_rows = [
        [
            left,
            *(
                "" if left == right else f"{retrieval_accuracy(vectors[left], vectors[right]):.3f}"
                for right in languages
            ),
        ]
        for left in languages
    ]
    return f"""\
## Measured on held-out chapters

One token of each of {RETRIEVAL_ROWS:,} sentences, drawn at random, is masked; how often the model's guesses hold it:

{_table(["fill-mask", *languages], fill_rows)}
The translation of a verse is looked for among {len(aligned[languages[0]]):,} held-out verses by the cosine of
mean-pooled vectors, languages not stated; how often the nearest is the right one (from the row's language to the
column's):

{_table(["from, to", *languages], retrieval_rows)}"""


def _table(header: list[str], rows: Table) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _reproduce(training: Training, files: Sequence[Path]) -> str:
    names = " ".join(path.name for path in files)
    return f"""\
## Recompute

`xlmstream-train card MODEL {names}` measures every figure and draws every sample above again;
`xlmstream-train run {training.recipe.name} {names} --run RUN` trains such a model.
"""
