"""The commands that look at jobs and change them: list, get, watch, cancel, pause, resume, retry, delete."""

from __future__ import annotations

import argparse
import itertools
import sys
from functools import partial

from google.protobuf.json_format import MessageToDict

from xlmstream.cli.commands import connect, print_json, print_table
from xlmstream.cli.jobs_results import PATIENT, conclude
from xlmstream.cli.jobs_show import command, details_of, local_time, named, progress_of
from xlmstream.cli.status_line import StatusLine
from xlmstream.errors import JobStateConflict
from xlmstream.jobs import Job

_HEADING = ("JOB", "STATE", "SUCCEEDED", "FAILED", "ITEMS", "CREATED", "TASK", "MODEL")


def list_jobs(arguments: argparse.Namespace) -> int:
    with connect(arguments) as client:
        found = client.jobs.list(states=arguments.states or ())
        jobs = list(itertools.islice(found, arguments.limit + 1))
    shown = jobs[: arguments.limit]
    if arguments.json:
        for job in shown:
            _print_json(job)
    elif shown:
        print_table(_HEADING, map(_row, shown))
    else:
        print("No such jobs." if arguments.states else "No jobs.", file=sys.stderr)
    if len(jobs) > len(shown):
        print(f"There are more: --limit {2 * arguments.limit} shows more of them.", file=sys.stderr)
    return 0


def _row(job: Job) -> tuple[str, ...]:
    counts = job.info.counts
    return (
        job.job_id,
        named(job.state),
        f"{counts.succeeded:,}",
        f"{counts.failed:,}",
        f"{job.info.items_committed:,}",
        local_time(job.info.create_time),
        job.task.replace("_", "-"),
        job.info.model,
    )


def get(arguments: argparse.Namespace) -> int:
    with connect(arguments) as client:
        job = client.jobs.get(arguments.job_id)
    if arguments.json:
        _print_json(job)
    else:
        for name, value in details_of(job):
            print(f"{name:<11} {value}")
    return 0


def watch(arguments: argparse.Namespace) -> int:
    """Until the job ends; the exit code is its end's."""
    with connect(arguments) as client:  # a person waits for this one
        client.jobs.get(arguments.job_id)
    with connect(arguments, PATIENT) as client:
        job = client.jobs.get(arguments.job_id)
        try:
            follow(job)
        except KeyboardInterrupt:
            print(f"xlmstream: interrupted; job {job.job_id} goes on", file=sys.stderr)
            raise
    return conclude(job, arguments)


def follow(job: Job) -> None:
    """Show how a job goes on, until it ends."""
    with StatusLine() as line, job.watch() as changes:
        for info in changes:
            line.show(partial(progress_of, info))


def change(verb: str, arguments: argparse.Namespace) -> int:
    """Cancel, pause, resume or retry jobs, and tell where they stand then."""
    with connect(arguments) as client:
        for job_id in arguments.job_ids:
            job: Job = getattr(client.jobs.get(job_id), verb)()
            print(f"{job.job_id}  {named(job.state)}")
    return 0


def delete(arguments: argparse.Namespace) -> int:
    with connect(arguments) as client:
        for job_id in arguments.job_ids:
            try:
                client.jobs.delete(job_id)
            except JobStateConflict:
                print(f"xlmstream: end it first: {command(arguments, 'cancel', job_id)}", file=sys.stderr)
                raise
            print(f"{job_id}  deleted")
    return 0


def _print_json(job: Job) -> None:
    print_json(MessageToDict(job.info, preserving_proto_field_name=True))
