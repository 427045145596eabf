"""`xlmstream-train`: vocabulary, training, export and model cards from the command line."""

import argparse
import dataclasses
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from xlmstream_worker.xlm import XLMConfig, XLMError

from .card import make_card, write_card
from .corpora import HOW_TO_GET_THEM
from .corpus import CorpusError
from .export import export_model, read_training
from .figures import samples_of
from .pipeline import learn_tokenizer, run_recipe
from .progress import shown_progress
from .recipe import Recipe, RecipeError, load_recipe, preset_names
from .tag_figures import tag_samples_of
from .trainer import Sitting

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class UsageError(ValueError):
    """An option that cannot be followed here."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, or 2 for files and options that cannot be used."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except (UsageError, RecipeError, CorpusError, XLMError, OSError) as error:
        print(f"xlmstream-train: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="xlmstream-train", description="Train XLM models of your own.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    presets = f"a .toml file or one of {', '.join(preset_names())}"

    run = commands.add_parser("run", help="train a model, or continue to; then export it to RUN/model")
    run.add_argument("recipe", help=presets)
    run.add_argument("files", nargs="+", type=Path, help="the corpus; see `xlmstream-train corpora`")
    run.add_argument("--run", required=True, type=Path, help="directory of this run; one that has begun is resumed")
    run.add_argument("--tokenizer", type=Path, help="use the vocabulary of this directory instead of learning one")
    run.add_argument("--init", type=Path, help="start from the weights (and by default the vocabulary) of this model")
    run.add_argument(
        "--init-decoder",
        type=Path,
        help="start a translation model's decoder from this causal model; --init: its encoder",
    )
    run.add_argument("--steps", type=int, help="train this many steps instead of the recipe's")
    run.add_argument("--hold", type=float, help="share of the steps at the peak learning rate instead of the recipe's")
    run.add_argument("--seed", type=int, help="instead of the recipe's")
    run.add_argument("--minutes", type=float, help="stop (to be resumed) after this long")
    run.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where to train (default: cpu)")
    run.add_argument(
        "--bf16", action="store_true", help="bfloat16 products: for GPUs, and CPUs with AVX-512 BF16 or AMX"
    )
    run.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    run.set_defaults(command=_run)

    vocabulary = commands.add_parser("vocabulary", help="learn the vocabulary of a recipe and write its tokenizer")
    vocabulary.add_argument("recipe", help=presets)
    vocabulary.add_argument("files", nargs="+", type=Path)
    vocabulary.add_argument("--out", required=True, type=Path, help="directory to write")
    vocabulary.set_defaults(command=_vocabulary)

    export = commands.add_parser("export", help="write the best weights of a run as a model directory")
    export.add_argument("run", type=Path)
    export.add_argument("model", type=Path, help="directory to write")
    export.set_defaults(command=lambda options: export_model(options.run, options.model))

    card = commands.add_parser("card", help="measure a model on held-out text and print its card")
    card.add_argument("model", type=Path)
    card.add_argument("files", nargs="+", type=Path)
    card.add_argument("--write", action="store_true", help="also write it to MODEL/README.md")
    card.set_defaults(command=_card)

    samples = commands.add_parser("samples", help="show the samples of a causal model's or a tagger's card again")
    samples.add_argument("model", type=Path)
    samples.set_defaults(command=_samples)

    corpora = commands.add_parser("corpora", help="say what text the trainer reads and where the demo's comes from")
    corpora.set_defaults(command=lambda options: print(HOW_TO_GET_THEM))
    return parser


def _run(options: argparse.Namespace) -> None:
    recipe = _changed(load_recipe(options.recipe), options)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: this machine shows no CUDA device")
    if options.threads:
        torch.set_num_threads(options.threads)
    with shown_progress(recipe.name) as report, _stop_signals() as interrupted:
        sitting = Sitting(
            device=torch.device(options.device),
            bfloat16=options.bf16,
            max_seconds=60 * options.minutes if options.minutes else float("inf"),
            interrupted=interrupted,
            report=report,
        )
        progress = run_recipe(recipe, options.files, options.run, sitting, _vocabulary_of(options))
    if progress.step < recipe.schedule.steps:
        print(f"stopped at step {progress.step} of {recipe.schedule.steps}; the same command continues")
        return
    export_model(options.run, options.run / "model")
    print(f"{options.run / 'model'}: loss {progress.best_loss:.3f} at step {progress.best_step}")


def _vocabulary_of(options: argparse.Namespace) -> Path | None:
    """Where a new run takes its vocabulary from. Bare weights, as in RUN/best, have none beside them."""
    beside = options.init is not None and (options.init / "vocab.json").is_file()
    source: Path | None = options.tokenizer or (options.init if beside else None)
    return source


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM end a run after the present step, with a checkpoint."""
    seen: list[int] = []
    before = {number: signal.signal(number, lambda got, frame: seen.append(got)) for number in STOP_SIGNALS}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _changed(recipe: Recipe, options: argparse.Namespace) -> Recipe:
    schedule = {name: getattr(options, name) for name in ("steps", "hold") if getattr(options, name) is not None}
    changes: dict[str, object] = {"schedule": dataclasses.replace(recipe.schedule, **schedule)}
    if options.seed is not None:
        changes["seed"] = options.seed
    changes |= {
        name: str(getattr(options, name)) for name in ("init", "init_decoder") if getattr(options, name) is not None
    }
    return dataclasses.replace(recipe, **changes)  # type: ignore[arg-type]  # names checked by argparse


def _vocabulary(options: argparse.Namespace) -> None:
    tokenizer = learn_tokenizer(load_recipe(options.recipe), options.files, options.out)
    print(f"{options.out}: {len(tokenizer.encoder)} tokens")


def _samples(options: argparse.Namespace) -> None:
    if read_training(options.model).objective in ("tags", "ruled_tags"):
        print(tag_samples_of(options.model))
    elif XLMConfig.from_pretrained(options.model).causal:
        print(samples_of(options.model))
    else:
        raise UsageError(f"{options.model} neither continues text nor tags it: it has no samples")


def _card(options: argparse.Namespace) -> None:
    print((write_card if options.write else make_card)(options.model, options.files))
