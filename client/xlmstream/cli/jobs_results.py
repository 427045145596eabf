"""`xlmstream jobs results`, and what `submit` shares of it: results into a file that can be continued, or out."""

from __future__ import annotations

import argparse
import sys
import threading
from contextlib import nullcontext, suppress
from functools import partial
from types import TracebackType
from typing import Self

from xlmstream.cli.commands import connect
from xlmstream.cli.jobs_show import code_of, command, progress_of, summary_of
from xlmstream.cli.status_line import StatusLine
from xlmstream.errors import XlmstreamError
from xlmstream.files import FileError, Format, ResultFile, record_of
from xlmstream.files.formats import Encoder, encoder_of
from xlmstream.jobs import Job
from xlmstream.retry import RetryPolicy
from xlmstream.sync import Client

# Nobody waits at the other end: a gateway may be away for some ten minutes.
PATIENT = RetryPolicy(max_attempts=80, max_backoff_s=10.0)
_FAREWELL_S = 1.0
# Results that go to a pipe, together.
_BLOCK = 1000


def results(arguments: argparse.Namespace) -> int:
    """The results there are; with --follow all of them, and the exit code that the job's end is."""
    with connect(arguments) as client:  # a person waits for this one
        client.jobs.get(arguments.job_id)
    with connect(arguments, PATIENT) as client:
        job = client.jobs.get(arguments.job_id)
        try:
            if arguments.output is None:
                _print(job, arguments)
            else:
                count = write(client, job, arguments, follow=arguments.follow)
                print(f"{count:,} results in {arguments.output}", file=sys.stderr)
        except KeyboardInterrupt:
            again = "; the same command continues" if arguments.output else ""
            print(f"xlmstream: interrupted; job {job.job_id} is not touched by that{again}", file=sys.stderr)
            raise
        return code_of(job.refresh().state) if arguments.follow else 0


def write(client: Client, job: Job, arguments: argparse.Namespace, *, follow: bool) -> int:
    """Write the results into the file, continuing where an earlier run stopped; returns how many it has."""
    selection = f"{arguments.order} {arguments.only} {job.info.create_time.ToJsonString()}"
    with ResultFile(arguments.output, job.task, job.job_id, selection=selection, form=arguments.output_format) as out:
        if out.results:
            print(f"Continuing {arguments.output} after {out.results:,} results.", file=sys.stderr)
        with (
            Watcher(client, job) if follow else nullcontext(),
            job.results(order=arguments.order, only=arguments.only, follow=follow, cursor=out.cursor) as stream,
        ):
            for result in stream:
                out.add(record_of(job.task, result), None if stream.buffered else stream.cursor)
        out.finish()
        return out.results


def _print(job: Job, arguments: argparse.Namespace) -> None:
    """To standard output, in blocks while there are many, each at once while they are awaited."""
    encoder: Encoder = encoder_of("results.jsonl", job.task, arguments.output_format)
    if arguments.output_format is Format.PARQUET:
        raise FileError("Parquet is written into a file: give --output")
    first, waiting = True, []
    with job.results(order=arguments.order, only=arguments.only, follow=arguments.follow) as stream:
        for result in stream:
            waiting.append(record_of(job.task, result))
            if not stream.buffered or len(waiting) == _BLOCK:
                sys.stdout.write(encoder.block(waiting, first=first).decode())
                sys.stdout.flush()
                first, waiting = False, []
    if first:
        sys.stdout.write(encoder.block([], first=True).decode())


class Watcher:
    """Shows how a job goes on while something else waits for it; a context manager."""

    def __init__(self, client: Client, job: Job) -> None:
        self._watch = client.jobs.get(job.job_id).watch()
        self._line = StatusLine()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def __enter__(self) -> Self:
        self._watch.__enter__()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch.close()
        self._thread.join(_FAREWELL_S)  # it may wait for a gateway just now; then it ends with the client
        self._line.clear()

    def _show(self) -> None:
        with suppress(
            XlmstreamError, RuntimeError
        ):  # what goes wrong here goes wrong with the results, and is told there
            for info in self._watch:
                self._line.show(partial(progress_of, info))


def conclude(job: Job, arguments: argparse.Namespace) -> int:
    """Tell how the job ended and what can be done now; returns the exit code."""
    print(summary_of(job.info), file=sys.stderr)
    if job.info.counts.failed:
        print(f"  again:    {command(arguments, 'retry', job.job_id)}", file=sys.stderr)
        print(f"  reasons:  {command(arguments, 'results', job.job_id, '--failed')}", file=sys.stderr)
    return code_of(job.state)
