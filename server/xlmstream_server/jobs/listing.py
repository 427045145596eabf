"""ListJobs: pages of a tenant's jobs, filtered here."""

from __future__ import annotations

from xlmstream.v1.job_pb2 import JobState
from xlmstream.v1.jobs_pb2 import ListJobsRequest, ListJobsResponse

from xlmstream_server import errors
from xlmstream_server.broker import BrokerError, JobRecord, JobStore
from xlmstream_server.jobs.creation import MAX_LABELS
from xlmstream_server.jobs.cursor import Seal
from xlmstream_server.validation import Violations

DEFAULT_PAGE, MOST_A_PAGE = 50, 1000
MOST_STATES = 16
# Jobs looked through for one page, and at a time where not all are wanted.
MOST_SCANNED = 1000
A_LOOK = 100


async def list_jobs(store: JobStore, tenant: str, request: ListJobsRequest) -> ListJobsResponse:
    """A page. Raises ServiceError: INVALID_INPUT, QUEUE_DOWN."""
    found = Violations()
    found.within("page_size", request.page_size, 0, MOST_A_PAGE)
    found.at_most("states", len(request.states), MOST_STATES, "states")
    found.at_most("labels", len(request.labels), MAX_LABELS, "labels")
    for position, state in enumerate(request.states[:MOST_STATES]):
        found.check(state != 0, f"states[{position}]", "must name a state")
        found.known(f"states[{position}]", state, JobState)
    found.raise_if_any()
    # Not a secret: a token gives nothing that its tenant cannot have. It only must not be used with another filter.
    seal = Seal(tenant, 0, sorted(request.states), sorted(request.labels.items()))
    most = request.page_size or DEFAULT_PAGE
    jobs: list[JobRecord] = []
    scanned = 0
    try:
        place = (seal.open(request.page_token) if request.page_token else "") or ""
        while True:
            limit = A_LOOK if request.states or request.labels else most - len(jobs)
            page, place = await store.list_jobs(tenant, limit=limit, before=place)
            scanned += len(page)
            wanted = [record for record in page if _is_wanted(record, request)]
            if len(jobs) + len(wanted) > most:
                wanted = wanted[: most - len(jobs)]
                place = store.place_behind(wanted[-1])
            jobs += wanted
            if not place or len(jobs) == most or scanned >= MOST_SCANNED:
                break
    except ValueError:
        raise errors.invalid_input([("page_token", "was not given for this filter")]) from None
    except BrokerError as cause:
        raise errors.from_broker(cause) from cause
    return ListJobsResponse(
        jobs=[record.to_job() for record in jobs], next_page_token=seal.close(place) if place else ""
    )


def _is_wanted(record: JobRecord, request: ListJobsRequest) -> bool:
    right_state = not request.states or record.state in request.states
    return right_state and request.labels.items() <= record.spec.labels.items()
