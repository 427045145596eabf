"""StreamJobResults and ListJobResults: what the broker holds, sent on as it is stored, from a cursor on.

A reader costs one page of results at a time: a slow one holds nobody up, and one that stands still for long is sent
away to come back with its cursor.
"""

from __future__ import annotations

from dataclasses import dataclass

from xlmstream.v1.job_pb2 import JOB_RESULT_ORDER_INPUT, JobResult, JobResultFilter, JobResultOrder
from xlmstream.v1.jobs_pb2 import (
    ListJobResultsRequest,
    ListJobResultsResponse,
    StreamJobResultsRequest,
    StreamJobResultsResponse,
)

from xlmstream_server import errors
from xlmstream_server.broker import BrokerError, JobRecord, JobStore, ResultPage
from xlmstream_server.call import Call
from xlmstream_server.jobs.cursor import Seal
from xlmstream_server.jobs.waiting import Waiting
from xlmstream_server.observe.metrics import Metrics
from xlmstream_server.validation import Violations

MESSAGE_BYTES = 256 << 10
MESSAGE_RESULTS = 4096
PAGE_BYTES = 1 << 20
DEFAULT_PAGE, MOST_A_PAGE = 100, 1000


@dataclass(slots=True)
class _Reading:
    """One reader's place in the results of a job."""

    record: JobRecord
    order: JobResultOrder.ValueType
    filter: JobResultFilter.ValueType
    seal: Seal
    place: str

    @property
    def cursor(self) -> str:
        return self.seal.close(self.place)


class Results:
    """Reads results."""

    def __init__(self, store: JobStore, waiting: Waiting, metrics: Metrics) -> None:
        self._store = store
        self._waiting = waiting
        self._metrics = metrics

    async def stream(self, request: StreamJobResultsRequest, call: Call) -> None:
        """Write messages until there is nothing more to come, or nothing more now where the reader does not follow.

        Raises ServiceError: INVALID_INPUT, JOB_NOT_FOUND, CURSOR_EXPIRED, DRAINING, QUEUE_DOWN.
        """
        try:
            reading = await self._begin(call.tenant, request, "cursor", request.cursor)
            while True:
                self._waiting.refuse_if_leaving()
                for page in await self._pages(reading):
                    reading.place = page.cursor
                    end = page.at_end or not (page.more or page.results or request.follow)
                    if page.results or end:
                        await call.write_bytes(_message(page, reading, end))
                        self._count(reading, page)
                if end:
                    return
                if not (page.results or page.more):
                    while not await self._waiting.for_change(reading.record, page.version):
                        await call.write_bytes(_message(page, reading, False))
        except BrokerError as cause:
            raise errors.from_broker(cause) from cause

    async def page(self, request: ListJobResultsRequest, call: Call) -> ListJobResultsResponse:
        """One page. Raises ServiceError as `stream`."""
        found = Violations()
        found.within("page_size", request.page_size, 0, MOST_A_PAGE)
        found.raise_if_any()
        try:
            reading = await self._begin(call.tenant, request, "page_token", request.page_token)
            page = await self._store.results(
                call.tenant,
                request.job_id,
                order=reading.order,
                cursor=reading.place,
                max_results=request.page_size or DEFAULT_PAGE,
                max_bytes=PAGE_BYTES,
                result_filter=reading.filter,
            )
            reading.place = page.cursor
        except BrokerError as cause:
            raise errors.from_broker(cause) from cause
        self._count(reading, page)
        goes_on = page.more or (page.results and not page.at_end)
        return ListJobResultsResponse(
            results=[JobResult.FromString(result) for result in page.results],
            next_page_token=reading.cursor if goes_on else "",
        )

    async def _begin(
        self, tenant: str, request: StreamJobResultsRequest | ListJobResultsRequest, field: str, cursor: str
    ) -> _Reading:
        found = Violations()
        found.known("order", request.order, JobResultOrder)
        found.known("filter", request.filter, JobResultFilter)
        found.raise_if_any()
        record = await self._store.get(tenant, request.job_id)
        order = request.order or JOB_RESULT_ORDER_INPUT
        seal = Seal(record.spec.cursor_secret, record.created_ms, order, request.filter)
        try:
            place = seal.open(cursor) if cursor else ""
        except ValueError:
            raise errors.invalid_input([(field, "was not given for this job, order and filter")]) from None
        if place is None:
            raise errors.job_cursor_expired(field)
        return _Reading(record, order, request.filter, seal, place)

    async def _pages(self, reading: _Reading) -> list[ResultPage]:
        """The next results, a message's worth each."""
        spec = reading.record.spec
        return await self._store.result_pages(
            spec.tenant,
            spec.job_id,
            order=reading.order,
            cursor=reading.place,
            max_results=MESSAGE_RESULTS,
            max_bytes=MESSAGE_BYTES,
            result_filter=reading.filter,
        )

    def _count(self, reading: _Reading, page: ResultPage) -> None:
        branch = reading.record.spec.task.WhichOneof("parameters") or ""
        self._metrics.job_results_sent.labels(branch).inc(len(page.results))
        self._metrics.job_result_bytes_sent.inc(sum(map(len, page.results)))


def _message(page: ResultPage, reading: _Reading, end: bool) -> bytes:
    """A StreamJobResultsResponse whose results are the broker's bytes."""
    return page.wire() + StreamJobResultsResponse(next_cursor=reading.cursor, end=end).SerializeToString()
