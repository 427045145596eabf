"""The command line of jobs: `xlmstream jobs ...`, every command, flag and line of help."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from xlmstream.cli import jobs, jobs_results, jobs_submit
from xlmstream.files import Format
from xlmstream.files.inputs import DEFAULTS, KEYS, LANGUAGES
from xlmstream.jobs import JobState
from xlmstream.jobs.values import JOB_TASKS

Command = Callable[[argparse.Namespace], int]
TASK_NAMES = tuple(name.replace("_", "-") for name, _ in JOB_TASKS.values())
RESULT_FORMATS = [str(one) for one in Format if one is not Format.LINES]


class Adder(Protocol):
    """Adds a command: its function, name, line of help and further help."""

    def __call__(self, run: Command, name: str, summary: str, epilog: str = "") -> argparse.ArgumentParser: ...


EXIT_CODES = """\
exit codes:
  0    done; where it waited for the end of a job: every item succeeded
  1    the service failed
  2    wrong usage or input, such as a line that cannot be read or a job that does not exist
  3    the service cannot be reached or is too busy; the same command continues
  4    the time limit of a call passed; the same command continues
  5    the job ended, and some of its items failed
  6    the job failed, was cancelled or expired
  130  interrupted; the job goes on, and the same command continues
"""

EXAMPLES = f"""\
examples:
  xlmstream jobs submit reviews.jsonl --task classify --output labels.jsonl
  xlmstream jobs submit corpus.txt.gz --task embed --pooling mean --watch
  xlmstream jobs list
  xlmstream jobs watch classify-1f0c5a3b7d2e4f69a8b1
  xlmstream jobs results classify-1f0c5a3b7d2e4f69a8b1 --failed

A job goes on without you. Its results are kept for a day after its end, whatever that end was.

{EXIT_CODES}"""

SUBMIT_EXAMPLES = f"""\
examples:
  xlmstream jobs submit reviews.jsonl --task classify --output labels.csv
  xlmstream jobs submit squad.parquet --task answer --top-k 3 --watch
  xlmstream jobs submit table.csv --task embed --text-field body --key-field sku
  zcat corpus.txt.gz | xlmstream jobs submit - --format lines --task generate --max-new-tokens 20
  xlmstream jobs submit --task generate --help      the flags of a task

The file is checked as a whole before anything is sent. The name of the job is made of the content of the file, the task
and its flags: so the same command, run again after an interruption of any kind, finds its job and continues it, the
upload as well as the file of results. It prints the name on standard output and all else on standard error.

formats, by the name's ending or --format, each but Parquet with .gz as well:
  jsonl    one JSON object a line           .jsonl .ndjson
  csv      quoted as RFC 4180 says          .csv
  tsv      parted by tabs, never quoted     .tsv .tab
  parquet  needs xlmstream[parquet]         .parquet .pq
  lines    one input a line; a tab parts the texts of a pair, question from context, choices   .txt .lines

{EXIT_CODES}"""

RESULTS_EXAMPLES = """\
examples:
  xlmstream jobs results JOB > results.jsonl
  xlmstream jobs results JOB --output results.parquet --follow
  xlmstream jobs results JOB --failed

A file of results grows beside its name as FILE.part and takes its name when it is complete. Interrupted, the same
command continues it.
"""


def add(
    add_command: Adder,
    argv: Sequence[str],
    *,
    task_flags: Callable[[str, argparse.ArgumentParser], None],
    connection_flags: Callable[[argparse.ArgumentParser], None],
) -> None:
    """Add `jobs` with its commands.

    argv: what will be parsed: `jobs submit` gets the flags of the task named there.
    """
    top = add_command(_nothing, "jobs", "work on very many inputs that goes on without you", EXAMPLES)
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def command(run: Command, name: str, summary: str, epilog: str = "") -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        added.set_defaults(run=run)
        return added

    submitting = command(jobs_submit.submit, "submit", "make a job of a file, or continue it", SUBMIT_EXAMPLES)
    _submit_flags(submitting, _task_in(argv), task_flags)
    listing = command(jobs.list_jobs, "list", "list your jobs, the newest first")
    listing.add_argument(
        "--state", dest="states", action="append", choices=_STATES, help="only in this state; may be repeated"
    )
    listing.add_argument(
        "--limit", type=_count, default=50, metavar="N", help="most jobs to list (default: %(default)s)"
    )
    _json_flag(listing)
    getting = command(jobs.get, "get", "show what is known of a job")
    _json_flag(getting)
    watching = command(jobs.watch, "watch", "show how a job goes on, until it ends", EXIT_CODES)
    reading = command(jobs_results.results, "results", "read the results of a job", RESULTS_EXAMPLES)
    _results_flags(reading)
    reading.add_argument("--follow", action="store_true", help="wait for more until the job has ended")
    for one in (getting, watching, reading):
        one.add_argument("job_id", metavar="JOB")
    several = [
        command(partial(jobs.change, name), name, summary)
        for name, summary in (
            ("cancel", "end jobs; results that are there stay readable"),
            ("pause", "let no further item of jobs begin"),
            ("resume", "let paused jobs go on"),
            ("retry", "run the failed items of ended jobs again, and no others"),
        )
    ]
    several.append(command(jobs.delete, "delete", "forget ended jobs with their inputs and results"))
    for one in several:
        one.add_argument("job_ids", nargs="+", metavar="JOB")
    for one in (submitting, listing, getting, watching, reading, *several):
        connection_flags(one)


_STATES = [str(state) for state in JobState if state is not JobState.UNSPECIFIED]


_ONE_LANGUAGE = "none for a model of one language"


def _submit_flags(
    parser: argparse.ArgumentParser,
    task: str | None,
    task_flags: Callable[[str, argparse.ArgumentParser], None],
) -> None:
    parser.add_argument("file", metavar="FILE", help="what to read the inputs from; - for standard input")
    parser.add_argument("--task", choices=TASK_NAMES, required=True, help="what to do with each input")
    parser.add_argument("--watch", action="store_true", help="show how the job goes on, until it ends")
    _results_flags(parser)
    reading = parser.add_argument_group("reading")
    reading.add_argument("--format", type=Format, choices=list(Format), help="default: by the name's ending")
    reading.add_argument("--no-header", action="store_true", help="CSV, TSV: no line of names; fields are 1, 2, ...")
    reading.add_argument(
        "--on-bad-line",
        choices=["fail", "skip"],
        default="fail",
        help="send nothing where a line gives no input, or leave such lines out (default: %(default)s)",
    )
    _field_flags(reading, task)
    group = parser.add_argument_group("job")
    group.add_argument("--job-id", metavar="NAME", help="default: made of the file's content, the task and its flags")
    group.add_argument(
        "--max-failed-items", type=int, metavar="N", help="give up once more items than this have failed"
    )
    group.add_argument(
        "--max-attempts", type=int, metavar="N", help="times an item may bring down a worker (default: 3)"
    )
    group.add_argument("--ttl", dest="ttl_s", type=int, metavar="SECONDS", help="end it after this (default: 7 days)")
    group.add_argument(
        "--retention", dest="retention_s", type=int, metavar="SECONDS", help="keep results so long (default: 24 hours)"
    )
    if task is not None:
        task_flags(task, parser)


def _field_flags(group: argparse._ArgumentGroup, task: str | None) -> None:
    """Which field is what: the parts that the task has; those of all tasks where none is named."""
    parts = DEFAULTS[task] if task else {part: names for each in DEFAULTS.values() for part, names in each.items()}
    for part, names in {**parts, "key": (*KEYS, "the line number"), "language": (*LANGUAGES, _ONE_LANGUAGE)}.items():
        flag, usual = f"--{part}-field", ", ".join(names)
        if part == "choices":
            usual += ", choice1 ..."
            kinds = {"action": "append", "default": []}
        else:
            kinds = {}
        group.add_argument(flag, metavar="NAME", help=f"default, the first there is: {usual}", **kinds)  # type: ignore[arg-type]


def _results_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("results")
    group.add_argument("--output", metavar="FILE", help="write the results there; .jsonl .csv .tsv (.gz) .parquet")
    group.add_argument(
        "--output-format", type=Format, choices=RESULT_FORMATS, help="default: by the name's ending; jsonl without one"
    )
    group.add_argument(
        "--order",
        choices=["input", "completion"],
        default="input",
        help="as in the file, or as they come (default: input)",
    )
    only = group.add_mutually_exclusive_group()
    for name in ("failed", "succeeded"):
        only.add_argument(
            f"--{name}", dest="only", action="store_const", const=name, default="all", help=f"only those that {name}"
        )


def _json_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def _count(given: str) -> int:
    count = int(given)
    if count < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return count


def _task_in(argv: Sequence[str]) -> str | None:
    """The task that `jobs submit` is given; None where there is none, which its own parser then tells."""
    if tuple(argv[:2]) != ("jobs", "submit"):
        return None
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--task", nargs="?")
    task = finder.parse_known_args(argv[2:])[0].task
    return task.replace("-", "_") if task in TASK_NAMES else None


def _nothing(arguments: argparse.Namespace) -> int:
    raise AssertionError("a command of jobs is required")
