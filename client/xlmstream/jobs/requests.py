"""From Python arguments to the requests of jobs. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypedDict, cast

from xlmstream import requests
from xlmstream.jobs.values import JOB_TASKS, JobState, number_of
from xlmstream.keywords import RequestKeywords
from xlmstream.requests import refuse_unknown
from xlmstream.tasks import TASKS
from xlmstream.v1 import job_pb2, jobs_pb2

Order = Literal["input", "completion"]
Only = Literal["all", "succeeded", "failed"]

_ORDERS: Mapping[str, job_pb2.JobResultOrder.ValueType] = {
    "input": job_pb2.JOB_RESULT_ORDER_INPUT,
    "completion": job_pb2.JOB_RESULT_ORDER_COMPLETION,
}
_FILTERS: Mapping[str, job_pb2.JobResultFilter.ValueType] = {
    "all": job_pb2.JOB_RESULT_FILTER_UNSPECIFIED,
    "succeeded": job_pb2.JOB_RESULT_FILTER_SUCCEEDED,
    "failed": job_pb2.JOB_RESULT_FILTER_FAILED,
}


class ItemKeywords(TypedDict, total=False):
    """What items are given beside their inputs, as the verbs are."""

    language: str
    """Language code of the texts that name none, one of Model.languages."""
    allow_special_tokens: bool
    """Whether "</s>" and the like in a plain string mean the special tokens; otherwise they are literal text."""


class JobKeywords(TypedDict, total=False):
    """What jobs take beside the parameters of their task; CreateJobRequest in jobs.proto gives ranges and defaults."""

    job_id: str
    """Your name for the job: made again with the same content, it is found instead."""
    request_id: str
    """Your key for this call: the same call again finds the job that it made."""
    job_labels: Mapping[str, str]
    ttl_s: int
    """How long the job may take; then it ends as expired."""
    retention_s: int
    """How long inputs and results are kept after its end."""
    max_attempts: int
    """How many times an item may bring a worker down before it is given up."""
    max_failed_items: int
    """The job is given up once more items than this have failed."""


# Of the keywords of verbs, those that have no place in a job.
_OF_ITEMS = {"source_language", *ItemKeywords.__annotations__}
_FOREIGN = {"priority", *_OF_ITEMS}


def create_request(task_name: str, keywords: Mapping[str, Any]) -> jobs_pb2.CreateJobRequest:
    """The request that makes a job. Raises ValueError for an unknown task, TypeError for an unknown keyword."""
    known = dict(JOB_TASKS.values())
    if task_name not in known:
        what = "is no task of jobs" if task_name in TASKS else "is no task"
        raise ValueError(f"{task_name!r} {what}; there are {', '.join(known)}")
    task = known[task_name]
    of_job = {name: value for name, value in keywords.items() if name in JobKeywords.__annotations__}
    of_task = {name: value for name, value in keywords.items() if name not in of_job}
    for name in of_task.keys() & _FOREIGN:
        where = "has no use in a job"
        if name in _OF_ITEMS:
            where = f"belongs to items: give it to upload{' as language' if name == 'source_language' else ''}"
        raise TypeError(f"{name} {where}")
    options = requests.options_of(cast(RequestKeywords, of_task))
    request = jobs_pb2.CreateJobRequest(model=options.model, truncation=options.truncation)
    requests.assign(request, "request_id", of_job.get("request_id") or requests.new_request_id(), path="request_id")
    requests.assign(request, "labels", of_job.get("job_labels"), path="labels")
    for name in ("job_id", "ttl_s", "retention_s", "max_attempts"):
        requests.assign(request, name, of_job.get(name), path=name)
    path = "failure_policy.max_failed_items"
    requests.assign(request.failure_policy, "max_failed_items", of_job.get("max_failed_items"), path=path)
    shared = task.shared(of_task)
    branch = getattr(request.task, task.branch)
    branch.SetInParent()
    if task.flags:  # they and the parameters are the fields of one message
        branch.MergeFrom(type(branch)(**shared))
    elif "parameters" in shared:
        branch.CopyFrom(shared["parameters"])
    return request


def list_request(
    states: Iterable[JobState | str], labels: Mapping[str, str] | None, page_size: int
) -> jobs_pb2.ListJobsRequest:
    request = jobs_pb2.ListJobsRequest(states=[number_of(state) for state in states])
    requests.assign(request, "page_size", page_size, path="page_size")
    requests.assign(request, "labels", labels, path="labels")
    return request


def results_request(
    job_id: str, order: Order, only: Only, follow: bool, cursor: str
) -> jobs_pb2.StreamJobResultsRequest:
    for name, value, known in (("order", order, _ORDERS), ("only", only, _FILTERS)):
        if value not in known:
            raise requests.invalid(name, f"{value!r} is none of {', '.join(known)}")
    return jobs_pb2.StreamJobResultsRequest(
        job_id=job_id, order=_ORDERS[order], filter=_FILTERS[only], follow=follow, cursor=cursor
    )


def item_keywords(keywords: Mapping[str, object]) -> ItemKeywords:
    """Raises TypeError for a keyword that items do not take."""
    refuse_unknown(keywords, ItemKeywords)
    return cast(ItemKeywords, keywords)
