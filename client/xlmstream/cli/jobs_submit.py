"""`xlmstream jobs submit`: from a file to a job, found and continued by the same command after any interruption."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from xlmstream.cli.commands import connect, given_keywords
from xlmstream.cli.jobs import follow
from xlmstream.cli.jobs_results import PATIENT, conclude, write
from xlmstream.cli.jobs_show import command, named
from xlmstream.cli.status_line import StatusLine, bar
from xlmstream.errors import DeadlineExceeded, JobNotFound, ResourceExhausted, Unavailable
from xlmstream.files import BadLine, Fields, FileError, Items, Source
from xlmstream.files.formats import encoder_of
from xlmstream.jobs import Job
from xlmstream.jobs.requests import JobKeywords
from xlmstream.sync import Client
from xlmstream.tasks import TASKS

# Part of every name made of a file: another way of reading files gives other names.
_NAMING = 1
_DIGEST_LABEL = "input-digest"
_SOURCE_LABEL = "input-file"
_LABEL_CHARS = 63
_DIGEST_CHARS = 20
_SHOWN_BAD_LINES = 10


def submit(arguments: argparse.Namespace) -> int:
    """Exit code 0 when all items are stored; with --watch or --output that of the job's end."""
    task = arguments.task.replace("-", "_")
    _check_output(arguments, task)
    with Source(arguments.file, arguments.format) as source:
        submission = _Submission(arguments, task, source)
        with connect(arguments) as client:  # a person waits for this one
            found = submission.find(client)
            submission.ask_for_languages(client)
        if found is None or not (found.info.sealed or found.ended):
            total = submission.check()
            with connect(arguments, PATIENT) as client:
                found = submission.upload(client, found, total)
    return _wait(found.job_id, arguments)


def _wait(job_id: str, arguments: argparse.Namespace) -> int:
    """Do what is to be done once all items are stored."""
    with connect(arguments, PATIENT) as client:
        job = client.jobs.get(job_id)
        if arguments.output is None and not arguments.watch:
            print(f"  watch:    {command(arguments, 'watch', job_id)}", file=sys.stderr)
            print(f"  results:  {command(arguments, 'results', job_id, '--output FILE')}", file=sys.stderr)
            print(job_id, flush=True)
            return 0
        print(job_id, flush=True)
        try:
            if arguments.output is None:
                follow(job)
            else:
                count = write(client, job, arguments, follow=True)
                print(f"{count:,} results in {arguments.output}", file=sys.stderr)
        except KeyboardInterrupt:
            _explain_interruption(job_id, arguments, "goes on")
            raise
        return conclude(job.refresh(), arguments)


def _explain_interruption(job_id: str, arguments: argparse.Namespace, how: str) -> None:
    print(
        f"\nInterrupted. Job {job_id} {how}.\n"
        "  continue: run the same command again\n"
        f"  watch:    {command(arguments, 'watch', job_id)}\n"
        f"  cancel:   {command(arguments, 'cancel', job_id)}",
        file=sys.stderr,
    )


def _check_output(arguments: argparse.Namespace, task: str) -> None:
    """Whatever would fail only after hours is told now."""
    if arguments.output is None:
        return
    encoder_of(arguments.output, task, arguments.output_format)
    output, given = Path(arguments.output), Path(arguments.file)
    if output.exists() and given.exists() and output.samefile(given):
        raise FileError(f"{output}: the results would replace the file of inputs; choose another --output")
    if not os.access(output.absolute().parent, os.W_OK):
        raise FileError(f"{output}: its folder does not exist or cannot be written to")


class _Submission:
    """One file on its way to one job."""

    def __init__(self, arguments: argparse.Namespace, task: str, source: Source) -> None:
        self._arguments = arguments
        self._task = task
        self._source = source
        self._fields = _fields(arguments)
        self._reading = {
            "header": not arguments.no_header,
            "allow_special_tokens": bool(arguments.allow_special_tokens),
        }
        self._keywords = given_keywords(arguments, TASKS[task].keywords.__annotations__)
        name = "source_language" if task == "translate" else "language"
        self._language = {"language": self._keywords.pop(name)} if name in self._keywords else {}
        self._keywords.pop("allow_special_tokens", None)
        self._digest = self._digest_of_all()
        self._job_id = arguments.job_id or f"{arguments.task}-{self._digest[:_DIGEST_CHARS]}"

    def _digest_of_all(self) -> str:
        """Of whatever decides which items the job has and what is done with them."""
        keywords = json.dumps({**self._keywords, **self._language}, sort_keys=True)
        reading = (self._source.format, self._fields, sorted(self._reading.items()))
        told = f"{_NAMING}\n{self._source.digest()}\n{self._task}\n{keywords}\n{reading!r}"
        return hashlib.sha256(told.encode()).hexdigest()[:_LABEL_CHARS]

    @property
    def _items(self) -> Items:
        return Items(self._source, self._task, self._fields, **self._reading)

    def ask_for_languages(self, client: Client) -> None:
        """A model of one language refuses inputs that name theirs: fields that nobody named are not read then."""
        wanted = self._arguments.model
        models = [model for model in client.models() if wanted in (None, model.name, f"{model.name}@{model.version}")]
        if self._fields.language is None and models and not any(model.languages for model in models):
            self._fields = dataclasses.replace(self._fields, language="")

    def find(self, client: Client) -> Job | None:
        """The job that an earlier run of this command made. Raises FileError where it holds other items."""
        try:
            job = client.jobs.get(self._job_id)
        except JobNotFound:
            return None
        if job.info.labels.get(_DIGEST_LABEL) != self._digest:
            raise FileError(
                f"job {job.job_id} exists and was not made of {self._source.name} with these flags; "
                "choose another --job-id"
            )
        _say(f"Job {job.job_id} is there already: {named(job.state)}, {job.items_committed:,} items stored.")
        if job.ended and not job.info.sealed:
            _say(f"  It ended before its upload did. To begin anew: {command(self._arguments, 'delete', job.job_id)}")
        return job

    def check(self) -> int:
        """Read the whole file; returns how many inputs it has. Raises FileError where it has lines that give none."""
        good, bad = 0, 0
        with StatusLine() as line:
            for number, one in enumerate(self._items.checked(), start=1):
                if isinstance(one, BadLine):
                    bad += 1
                    if bad <= _SHOWN_BAD_LINES:
                        line.say(f"xlmstream: {one}")
                else:
                    good += 1
                if number % 4096 == 0:
                    line.show(partial("checking {}: {:,} inputs".format, self._source.name, good))
        if bad > _SHOWN_BAD_LINES:
            _say(f"xlmstream: ... and {bad - _SHOWN_BAD_LINES:,} more")
        if bad and self._arguments.on_bad_line == "fail":
            lines = "1 line gives" if bad == 1 else f"{bad:,} lines give"
            raise FileError(
                f"{self._source.name}: {lines} no input, so nothing was sent; mend it, or leave such lines out with "
                "--on-bad-line skip"
            )
        if not good:
            raise FileError(f"{self._source.name}: holds no input")
        _say(f"{self._source.name}: {good:,} inputs" + (f", {bad:,} lines skipped" if bad else ""))
        return good

    def upload(self, client: Client, found: Job | None, total: int) -> Job:
        """Make the job where none was found, store what is not stored yet, and seal it."""
        if found is None:
            job = client.jobs.create(self._task, **self._job_keywords(), **self._keywords)
        else:
            job = client.jobs.get(found.job_id)
        try:
            with StatusLine() as line:
                progress = _Upload(line, total, job.items_committed)
                job.upload(self._items, on_commit=progress.show, **self._language)
            if self._source.changed:
                raise FileError(
                    f"{self._source.name}: was written to while it was read, so job {job.job_id} holds a mixture; "
                    f"remove it with: {command(self._arguments, 'cancel', job.job_id)}"
                )
            job.seal(expected_items=total)
        except KeyboardInterrupt:
            how = f"keeps what it has, {job.items_committed:,} of {total:,} items"
            _explain_interruption(job.job_id, self._arguments, how)
            raise
        except (Unavailable, DeadlineExceeded, ResourceExhausted):
            stored = job.items_committed
            _say(f"Job {job.job_id} keeps what it has, {stored:,} of {total:,} items. The same command continues.")
            raise
        _say(f"Job {job.job_id}: {total:,} items stored for {job.info.model}. It goes on without you.")
        return job

    def _job_keywords(self) -> dict[str, Any]:
        keywords = given_keywords(self._arguments, JobKeywords.__annotations__)
        name = Path(self._source.name).name.encode(errors="replace").decode()  # a name may be any bytes
        labels = {_DIGEST_LABEL: self._digest, _SOURCE_LABEL: name[:_LABEL_CHARS]}
        return {**keywords, "job_id": self._job_id, "job_labels": labels}


def _fields(arguments: argparse.Namespace) -> Fields:
    """The names of fields that were given; a task has flags for its own parts alone."""
    given: dict[str, Any] = {part: getattr(arguments, f"{part}_field", None) for part in Fields.__annotations__}
    given["choices"] = tuple(given["choices"] or ())
    return Fields(**given)


class _Upload:
    """Shows how far an upload is."""

    def __init__(self, line: StatusLine, total: int, before: int) -> None:
        self._line, self._total, self._before = line, total, before
        self._began = time.monotonic()

    def show(self, stored: int) -> None:
        self._line.show(partial(self._text, stored))

    def _text(self, stored: int) -> str:
        rate = (stored - self._before) / max(1e-3, time.monotonic() - self._began)
        return f"{bar(stored / self._total)}  uploading: {stored:,} of {self._total:,}, {rate:,.0f} items/s"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
