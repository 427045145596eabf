"""UploadJobItems: messages in, chunks to the broker, nothing kept between two messages."""

from __future__ import annotations

from collections.abc import AsyncIterator

from xlmstream.v1.jobs_pb2 import UploadChunk, UploadHeader, UploadJobItemsRequest

from xlmstream_server import errors
from xlmstream_server.broker import BrokerError, JobRecord, JobStore
from xlmstream_server.call import CallMaker
from xlmstream_server.catalogue import Catalogue
from xlmstream_server.jobs.items import check_chunk, costs_of
from xlmstream_server.jobs.kinds import KINDS, Estimate
from xlmstream_server.observe.metrics import Metrics

# Items that are looked at before other calls have their turn: some milliseconds, however large a message is.
ITEMS_A_TURN = 2048


class Uploads:
    """Takes items in."""

    def __init__(self, store: JobStore, catalogue: Catalogue, calls: CallMaker, metrics: Metrics) -> None:
        self._store = store
        self._catalogue = catalogue
        self._calls = calls
        self._metrics = metrics

    async def run(self, tenant: str, requests: AsyncIterator[UploadJobItemsRequest]) -> int:
        """How many items the job has after the last message.

        Each message is committed before the next is taken, so that a broken upload loses one message at most.

        Raises ServiceError: INVALID_INPUT, CHECKSUM_MISMATCH, UPLOAD_GAP, JOB_NOT_FOUND, JOB_STATE, QUOTA_EXCEEDED,
        DRAINING, QUEUE_DOWN. What came before the fault is committed.
        """
        try:
            header = await _header(requests)
            record = await self._store.get(tenant, header.job_id)
            upload = _Upload(self._store, record, self._estimate(record), self._metrics)
            async for request in requests:
                if request.WhichOneof("message") != "chunk":
                    raise errors.invalid_input([("chunk", "every message after the first has one")])
                if self._calls.draining:
                    raise errors.draining()
                await upload.add(request.chunk)
            if header.seal:
                return (await self._store.seal(tenant, header.job_id)).items
            return upload.items_committed
        except BrokerError as cause:
            raise errors.from_broker(cause) from cause

    def _estimate(self, record: JobRecord) -> Estimate:
        kind = KINDS[record.spec.task.WhichOneof("parameters") or ""]
        return kind.estimate(record.spec.task, self._catalogue.known(record.spec.model))


class _Upload:
    """One upload to one job."""

    def __init__(self, store: JobStore, record: JobRecord, estimate: Estimate, metrics: Metrics) -> None:
        self._store = store
        self._spec = record.spec
        self._branch = record.spec.task.WhichOneof("parameters") or ""
        self._estimate = estimate
        self._metrics = metrics
        self.items_committed = record.items

    async def add(self, chunk: UploadChunk) -> None:
        """Commit a chunk, all of it or as far as its items can be items of the job; raises for the next one."""
        items = check_chunk(chunk)
        for begin in range(0, len(items), ITEMS_A_TURN):
            await self._add(items[begin : begin + ITEMS_A_TURN], chunk.first_index + begin)

    async def _add(self, items: list[bytes], first_index: int) -> None:
        costs, wrong = costs_of(items, first_index, self._branch, self._estimate)
        good = items[: len(costs)] if wrong else items
        if good:
            before = self.items_committed
            self.items_committed = await self._store.upload(
                self._spec.tenant, self._spec.job_id, first_index, good, costs
            )
            if self.items_committed > before:
                self._metrics.count_job_items(self._branch, good[before - self.items_committed :])
        if wrong:
            raise wrong


async def _header(requests: AsyncIterator[UploadJobItemsRequest]) -> UploadHeader:
    async for request in requests:
        if request.WhichOneof("message") == "header":
            return request.header
        break
    raise errors.invalid_input([("header", "the first message of an upload has it")])
