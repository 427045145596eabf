"""The command line: every command, flag and line of help."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

from xlmstream.channel import DEFAULT_ADDRESS
from xlmstream.cli.commands import generate, health, models, tokenize, version
from xlmstream.cli.failures import EXIT_CODES
from xlmstream.cli.up import up

Command = Callable[[argparse.Namespace], int]

ADDRESS_VARIABLE = "XLMSTREAM_ADDRESS"

EXAMPLES = """\
examples:
  xlmstream up                                     serve the demo model on this machine
  xlmstream up en-fr@2=models/en-fr                serve a model of your own
  xlmstream generate "In the beginning"            watch a text grow
  xlmstream generate --json < prompts.txt          one prompt a line in, one JSON object a line out
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


def parser() -> argparse.ArgumentParser:
    """The whole command line. `run` of the parsed arguments is the command's function."""
    top = _formatted(argparse.ArgumentParser(prog="xlmstream"), "XLM language models over gRPC.", EXAMPLES + EXIT_CODES)
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def add(run: Command, name: str, summary: str, epilog: str = "") -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=summary, allow_abbrev=False)
        added.set_defaults(run=run)
        return _formatted(added, summary[0].upper() + summary[1:] + ".", epilog)

    _up_flags(add(up, "up", "serve models on this machine: broker, gateway and worker in one", UP_EXAMPLES))
    generating = add(generate, "generate", "continue texts", GENERATE_EXAMPLES)
    generating.add_argument("texts", nargs="*", metavar="PROMPT", help="default: one from each line of standard input")
    _generation_flags(generating)
    _text_flags(generating)
    _connection_flags(generating, timeout_s=120)
    tokenizing = add(tokenize, "tokenize", "show the tokens of texts")
    tokenizing.add_argument("texts", nargs="*", metavar="TEXT", help="default: one from each line of standard input")
    tokenizing.add_argument("--add-special-tokens", action="store_true", default=None, help="as an encoder takes them")
    _text_flags(tokenizing)
    _connection_flags(tokenizing, timeout_s=30)
    listing = add(models, "models", "list the served models")
    _json_flag(listing)
    _connection_flags(listing, timeout_s=10)
    check = add(health, "health", "ask whether the service is healthy; exit code 0 if it is")
    check.add_argument("--service", default="", metavar="NAME", help="a part of it, such as model/NAME")
    _connection_flags(check, timeout_s=3)
    _connection_flags(add(version, "version", "show the versions of this client and of the service"), timeout_s=2)
    return top


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


def _generation_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("generation")
    group.add_argument("--max-new-tokens", type=int, metavar="N", help="most tokens to generate (default: 64)")
    group.add_argument("--min-new-tokens", type=int, metavar="N", help="no end before so many tokens (default: 0)")
    group.add_argument("--temperature", type=float, metavar="T", help="0 takes the most likely token (default: 0)")
    group.add_argument("--top-k", type=int, metavar="K", help="sample among the K most likely tokens")
    group.add_argument(
        "--top-p", type=float, metavar="P", help="sample among the likeliest that add up to P (default: 1)"
    )
    group.add_argument("--seed", type=int, metavar="N", help="same seed, same text (default: random)")
    group.add_argument("--stop", action="append", metavar="TEXT", help="end before this text; may be repeated")
    group.add_argument("--ignore-eos", action="store_true", default=None, help="go on after the end of sequence")


def _text_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("request")
    group.add_argument("--model", metavar="NAME[@VERSION]", help="default: the only one served")
    group.add_argument("--language", metavar="CODE", help="language of the texts (default: the model's)")
    group.add_argument("--truncation", choices=["keep_start", "keep_end"], help="cut a text that is too long")
    group.add_argument(
        "--allow-special-tokens", action="store_true", default=None, help='take "</s>" in a text as such'
    )
    group.add_argument(
        "--priority", choices=["interactive", "standard", "bulk"], help="which queue (default: standard)"
    )
    group.add_argument("--request-id", metavar="KEY", help="your key: the same request again joins the first")
    _json_flag(group)


def _json_flag(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def _connection_flags(parser: argparse.ArgumentParser, *, timeout_s: float) -> None:
    group = parser.add_argument_group("connection")
    group.add_argument(
        "--address",
        default=os.environ.get(ADDRESS_VARIABLE, DEFAULT_ADDRESS),
        metavar="HOST:PORT[,...]",
        help=f"the service, several to fall back on (default: ${ADDRESS_VARIABLE} or {DEFAULT_ADDRESS})",
    )
    group.add_argument(
        "--timeout", type=float, default=timeout_s, metavar="SECONDS", help="give up after this (default: %(default)s)"
    )
