"""How a job looks to a person, and which exit code its end is."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from xlmstream.cli.commands import default_address
from xlmstream.cli.status_line import bar, duration
from xlmstream.jobs import Job, JobState
from xlmstream.jobs.values import state_of
from xlmstream.v1 import job_pb2

PARTIAL = 5
UNSUCCESSFUL = 6
_SHOWN_REASONS = 8
_BAR_CHARS = 16


def code_of(state: JobState) -> int:
    """The exit code of a job that was waited for."""
    if state is JobState.PARTIALLY_SUCCEEDED:
        return PARTIAL
    return 0 if state is JobState.SUCCEEDED else UNSUCCESSFUL


def ended(info: job_pb2.Job) -> int:
    """Items that nothing more will happen to."""
    return info.counts.succeeded + info.counts.failed + info.counts.skipped


def progress_of(info: job_pb2.Job) -> str:
    """One line: how far, how long still, how fast; what matters most first, as a terminal may be narrow."""
    done, state = ended(info), state_of(info.state)
    parts = [f"{done:,} of {info.items_committed:,}"]
    parts += [] if state is JobState.RUNNING else [named(state)]
    parts += [f"{info.counts.failed:,} failed"] if info.counts.failed else []
    parts += [f"{duration(info.eta_s)} left"] if info.HasField("eta_s") else []
    parts += [f"{info.items_per_s:,.0f} items/s"] if info.items_per_s else []
    parts += [f"{info.tokens_per_s:,.0f} tokens/s"] if info.tokens_per_s else []
    return f"{bar(done / info.items_committed if info.items_committed else 1.0, _BAR_CHARS)}  {', '.join(parts)}"


def named(state: JobState) -> str:
    return state.replace("_", " ")


def summary_of(info: job_pb2.Job) -> str:
    """Some lines about a job that has ended, or has not."""
    counts = info.counts
    figures = [f"{counts.succeeded:,} of {info.items_committed:,} items succeeded", f"{counts.failed:,} failed"]
    figures += [f"{counts.skipped:,} never ran"] if counts.skipped else []
    tokens = info.prompt_tokens + info.completion_tokens
    took = f", {tokens:,} tokens"
    if info.HasField("start_time") and info.HasField("end_time"):
        seconds = info.end_time.ToDatetime() - info.start_time.ToDatetime()
        took += f" in {duration(seconds.total_seconds())}"
    head = f"Job {info.job_id} {_SENTENCES.get(state_of(info.state), 'is ' + named(state_of(info.state)))}: "
    return "\n".join([head + ", ".join(figures) + took + ".", *errors_of(info)])


_SENTENCES = {
    JobState.SUCCEEDED: "succeeded",
    JobState.PARTIALLY_SUCCEEDED: "succeeded in part",
    JobState.FAILED: "failed",
    JobState.EXPIRED: "expired",
}


def errors_of(info: job_pb2.Job) -> Iterator[str]:
    """A line for each reason of failures."""
    for one in info.error_summary[:_SHOWN_REASONS]:
        yield f"  {one.count:,} {one.reason}, such as the item with index {one.sample_index}"
    if len(info.error_summary) > _SHOWN_REASONS:
        yield f"  and {len(info.error_summary) - _SHOWN_REASONS} other reasons"


def details_of(job: Job) -> Iterator[tuple[str, str]]:
    """What is known of a job, as names and values."""
    info = job.info
    yield "job", info.job_id
    yield "state", named(job.state)
    yield "progress", progress_of(info)
    yield "task", f"{job.task.replace('_', '-')} with {info.model}"
    yield "items", _items(info)
    yield "tokens", f"{info.prompt_tokens:,} of prompts, {info.completion_tokens:,} generated"
    for place, line in enumerate(errors_of(info)):
        yield "" if place else "failures", line.strip()
    if info.attempt > 1:
        yield "attempt", str(info.attempt)
    for name, label in sorted(info.labels.items()):
        yield "label", f"{name}={label}"
    kept = "kept until" if job.ended else "expires"
    for name, field in (("created", "create"), ("started", "start"), ("ended", "end"), (kept, "expire")):
        time = getattr(info, f"{field}_time")
        if time.seconds:
            yield name, local_time(time)


def _items(info: job_pb2.Job) -> str:
    counts = info.counts
    parts = [f"{getattr(counts, name):,} {name}" for name in ("succeeded", "failed", "running", "pending", "skipped")]
    more = "" if info.sealed else "; more may come"
    return f"{info.items_committed:,}: {', '.join(part for part in parts if not part.startswith('0 ')) or 'none'}{more}"


def local_time(time: Timestamp) -> str:
    return datetime.fromtimestamp(time.seconds).strftime("%Y-%m-%d %H:%M:%S")


def command(arguments: argparse.Namespace, *words: str) -> str:
    """A command line that reaches the same service."""
    address = () if arguments.address == default_address() else ("--address", arguments.address)
    return " ".join(["xlmstream jobs", *words, *address])
