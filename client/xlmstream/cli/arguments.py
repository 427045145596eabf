"""The command line: every command and line of help, and the flags that no task has for itself."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

from xlmstream.channel import DEFAULT_ADDRESS
from xlmstream.cli import jobs_arguments, tasks
from xlmstream.cli.commands import ADDRESS_VARIABLE, default_address, generate, health, models, tokenize, version
from xlmstream.cli.failures import EXIT_CODES
from xlmstream.cli.task_flags import (
    direction_flags,
    generation_flags,
    more_generation_flags,
    parameter_flags,
    prompt_flags,
)
from xlmstream.cli.translate import translate
from xlmstream.cli.up import up

Command = Callable[[argparse.Namespace], int]
Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

EXAMPLES = """\
examples:
  xlmstream up                                     serve the demo model on this machine
  xlmstream up en-fr@2=models/en-fr                serve a model of your own
  xlmstream generate "In the beginning"            watch a text grow
  xlmstream generate --json < prompts.txt          one prompt a line in, one JSON object a line out
  xlmstream translate --from en --to fr "A word."  the same of a translation model
  xlmstream embed --json < lines.txt               one vector for each line
  xlmstream jobs submit a.csv --task embed         work on a large file that goes on without you
  xlmstream tokenize "A word."                     ids, places and pieces
  xlmstream models --address gateway:50051         what a service serves

"""

UP_EXAMPLES = """\
examples:
  xlmstream up
  xlmstream up models/mine
  xlmstream up fr=models/fr en@2=models/en --device cuda --dtype bfloat16 --slots 64
  xlmstream up --broker redis://localhost:6379/0

It starts these, as you would by hand, with an embedded broker unless --broker names one:
  xlmstream-server --broker URL --listen HOST:PORT
  xlmstream-worker --broker URL [NAME[@VERSION]=]DIR ...
"""

GENERATE_EXAMPLES = """\
examples:
  xlmstream generate "In the beginning" --language en
  xlmstream generate "Au commencement" --language fr --temperature 0.7 --top-p 0.9 --seed 7
  xlmstream generate --stop . --stop "!" "Und der HERR" "Und Mose"
  cat prompts.txt | xlmstream generate --json --max-new-tokens 20

One prompt is streamed as it grows; several are sent together and come back in their order.
"""


TRANSLATE_EXAMPLES = """\
examples:
  xlmstream translate --from en --to fr "In the beginning"
  xlmstream translate --from de --to en --num-beams 4 < lines.txt > translated.txt
  xlmstream translate --from en --to es --json --num-beams 4 --num-return-sequences 4 "A word."

One text is streamed as it grows; several, and the lines of standard input, go over one stream and come back in their
order.
"""

TASK_SUMMARIES = {
    "embed": "turn texts into vectors",
    "fill_mask": "find what may stand in the gaps of texts",
    "classify": "label texts or pairs of texts",
    "tag": "label the words of texts and find the entities they form",
    "answer": "find the answers to questions in texts",
    "choose": "choose what follows a text best",
    "score": "tell how probable texts are",
}

_LINES = "Lines of standard input are sent over one stream and come back in their order."
TASK_EXAMPLES = {
    "embed": f"""\
examples:
  xlmstream embed "A sentence." "Une phrase." --normalize
  xlmstream embed --json < lines.txt > vectors.jsonl

{_LINES}
""",
    "fill_mask": f"""\
examples:
  xlmstream fill-mask "Paris is the <special1> of France."
  xlmstream fill-mask --top-k 3 --language fr "Le <special1> est bleu."

The gap is written as the model's mask token, which `xlmstream models --json` tells.
{_LINES}
""",
    "classify": f"""\
examples:
  xlmstream classify "What a film!" --top-k 1
  printf 'It rains.\\tIt is wet.\\n' | xlmstream classify

A tab within a line parts the two texts of a pair.
{_LINES}
""",
    "tag": f"""\
examples:
  xlmstream tag "Ada Lovelace lived in London." --language en
  xlmstream tag --json < lines.txt

{_LINES}
""",
    "answer": f"""\
examples:
  xlmstream answer "Who wrote it?" "It was written by Ada." --top-k 3
  xlmstream answer --json < questions.tsv

A line has a question and its text, with a tab between.
{_LINES}
""",
    "choose": f"""\
examples:
  xlmstream choose "He opened the door and" "went in." "ate the sky."
  xlmstream choose --json < choices.tsv

A line has a text and its choices, with tabs between.
{_LINES}
""",
    "score": f"""\
examples:
  xlmstream score "In the beginning" "Beginning the in"
  xlmstream score --json --include-tokens < lines.txt

{_LINES}
""",
}


def parser(argv: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The whole command line. `run` of the parsed arguments is the command's function.

    argv: what will be parsed: `jobs submit` has the flags of the task that is named there.
    """
    top = _formatted(argparse.ArgumentParser(prog="xlmstream"), "XLM language models over gRPC.", EXAMPLES + EXIT_CODES)
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    add = partial(_add, commands)

    _up_flags(add(up, "up", "serve models on this machine: broker, gateway and worker in one", UP_EXAMPLES))
    generating = add(generate, "generate", "continue texts", GENERATE_EXAMPLES)
    generating.add_argument("texts", nargs="*", metavar="PROMPT", help="default: one from each line of standard input")
    generation_flags(generating)
    prompt_flags(more_generation_flags(generating))
    _text_flags(generating)
    _connection_flags(generating, timeout_s=120)
    translating = add(translate, "translate", "translate texts", TRANSLATE_EXAMPLES)
    translating.add_argument("texts", nargs="*", metavar="TEXT", help="default: one from each line of standard input")
    direction_flags(translating)
    generation_flags(translating, most="1.5 times the source")
    more_generation_flags(translating)
    _text_flags(translating, keyed=False, language=False)
    _connection_flags(translating, timeout_s=3600)
    tokenizing = add(tokenize, "tokenize", "show the tokens of texts")
    tokenizing.add_argument("texts", nargs="*", metavar="TEXT", help="default: one from each line of standard input")
    tokenizing.add_argument("--add-special-tokens", action="store_true", default=None, help="as an encoder takes them")
    _text_flags(tokenizing)
    _connection_flags(tokenizing, timeout_s=30)
    for name, summary in TASK_SUMMARIES.items():
        _task_flags(name, add(partial(tasks.run, name), name.replace("_", "-"), summary, TASK_EXAMPLES[name]))
    of_calls = partial(_connection_flags, timeout_s=60, limits="give up a single call after this")
    jobs_arguments.add(add, argv, task_flags=_job_task_flags, connection_flags=of_calls)
    listing = add(models, "models", "list the served models")
    _json_flag(listing)
    _connection_flags(listing, timeout_s=10)
    check = add(health, "health", "ask whether the service is healthy; exit code 0 if it is")
    check.add_argument("--service", default="", metavar="NAME", help="a part of it, such as model/NAME")
    _connection_flags(check, timeout_s=3)
    _connection_flags(add(version, "version", "show the versions of this client and of the service"), timeout_s=2)
    return top


def _add(commands: Subparsers, run: Command, name: str, summary: str, epilog: str = "") -> argparse.ArgumentParser:
    added = commands.add_parser(name, help=summary, allow_abbrev=False)
    added.set_defaults(run=run)
    return _formatted(added, summary[0].upper() + summary[1:] + ".", epilog)


def _task_flags(name: str, parser: argparse.ArgumentParser) -> None:
    """The inputs and the flags of a task that does not generate."""
    if name == "answer":
        parser.add_argument("question", nargs="?", metavar="QUESTION")
        parser.add_argument("context", nargs="?", metavar="TEXT", help="where to find the answer")
    else:
        kind = "PROMPT CHOICE" if name == "choose" else "TEXT"
        parser.add_argument("texts", nargs="*", metavar=kind, help="default: one from each line of standard input")
    parameter_flags(name, parser)
    _text_flags(parser, keyed=False)
    _connection_flags(parser, timeout_s=3600)


def _job_task_flags(name: str, parser: argparse.ArgumentParser) -> None:
    """The flags of a task that hold for all items of a job."""
    if name == "generate":
        generation_flags(parser)
        prompt_flags(more_generation_flags(parser))
    elif name == "translate":
        direction_flags(parser, source_required=False)
        generation_flags(parser, most="1.5 times the source")
        more_generation_flags(parser)
    else:
        parameter_flags(name, parser)
    _input_flags(parser.add_argument_group("request"), language=name != "translate")


def _formatted(parser: argparse.ArgumentParser, description: str, epilog: str) -> argparse.ArgumentParser:
    parser.description, parser.epilog = description, epilog
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.allow_abbrev = False
    return parser


def _up_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models", nargs="*", metavar="[NAME[@VERSION]=]DIR", help="model directories (default: the shipped demo model)"
    )
    parser.add_argument(
        "--listen", dest="address", default=DEFAULT_ADDRESS, metavar="HOST:PORT", help="default: %(default)s"
    )
    parser.add_argument("--broker", metavar="URL", help="a Redis or Valkey of yours (default: an embedded one)")
    parser.add_argument(
        "--data-dir", metavar="DIR", help="keep the embedded broker's data (default: forget it at the end)"
    )
    worker = parser.add_argument_group("passed on to the worker")
    worker.add_argument("--device", metavar="cpu|cuda|cuda:N", help="what the models compute on")
    worker.add_argument("--dtype", metavar="float32|bfloat16|float16", help="what they compute in")
    worker.add_argument("--slots", type=int, metavar="N", help="most sequences that a model decodes at once")


def _text_flags(parser: argparse.ArgumentParser, *, keyed: bool = True, language: bool = True) -> None:
    group = parser.add_argument_group("request")
    _input_flags(group, language=language)
    group.add_argument(
        "--priority", choices=["interactive", "standard", "bulk"], help="which queue (default: standard)"
    )
    if keyed:
        group.add_argument("--request-id", metavar="KEY", help="your key: the same request again joins the first")
    _json_flag(group)


def _input_flags(group: argparse._ArgumentGroup, *, language: bool = True) -> None:
    group.add_argument("--model", metavar="NAME[@VERSION]", help="default: the only one served")
    if language:
        group.add_argument("--language", metavar="CODE", help="language of the texts (default: the model's)")
    group.add_argument("--truncation", choices=["keep_start", "keep_end"], help="cut a text that is too long")
    group.add_argument(
        "--allow-special-tokens", action="store_true", default=None, help='take "</s>" in a text as such'
    )


def _json_flag(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def _connection_flags(parser: argparse.ArgumentParser, *, timeout_s: float, limits: str = "give up after this") -> None:
    group = parser.add_argument_group("connection")
    group.add_argument(
        "--address",
        default=default_address(),
        metavar="HOST:PORT[,...]",
        help=f"the service, several to fall back on (default: ${ADDRESS_VARIABLE} or {DEFAULT_ADDRESS})",
    )
    group.add_argument(
        "--timeout", type=float, default=timeout_s, metavar="SECONDS", help=f"{limits} (default: %(default)s)"
    )
