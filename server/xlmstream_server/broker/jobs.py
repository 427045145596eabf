"""A gateway's end of the broker for jobs: making, filling and changing them (asyncio)."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence

from xlmstream_server.broker import job_wire
from xlmstream_server.broker.connection import Argument
from xlmstream_server.broker.errors import (
    BrokerError,
    JobIdReused,
    JobNotFound,
    JobQuotaExceeded,
    JobStateForbids,
    UploadGap,
)
from xlmstream_server.broker.job_reading import JobReader, Run
from xlmstream_server.broker.job_values import JobLimits, JobRecord
from xlmstream_server.broker.scripts import shard_root
from xlmstream_server.broker.v1.messages_pb2 import JobSpec

# Chunks that go to the broker in one call.
UPLOAD_BYTES = 1 << 20
QUOTA_RETRY_S = 60.0


class JobStore(JobReader):
    """The jobs of all tenants, as `GatewayBroker.jobs`.

    A job is named by its tenant and its job_id: nobody reaches another tenant's. Every call raises `BrokerDown` while
    the broker is away and may then be repeated: if the first one did arrive, the repetition changes nothing.
    """

    def __init__(self, run: Run, limits: JobLimits, shards: int) -> None:
        """`run(script, root, *arguments)` calls a script of a shard."""
        super().__init__(run, shards)
        self._limits = limits

    def job_id_for(self, tenant: str, request_id: str) -> str:
        """A job_id for a job that has none: always the same for a request_id, a random one for the empty request_id."""
        drawn = hashlib.sha256(f"{len(tenant)}:{tenant}{request_id}".encode()).hexdigest()[:24]
        return f"job-{drawn if request_id else secrets.token_hex(12)}"

    # ------------------------------------------------------------------ making and filling

    async def create(self, spec: JobSpec) -> tuple[JobRecord, bool]:
        """Make a job, or join the one that has its tenant, its job_id and the same content.

        Args:
            spec: complete, all defaults filled in. `seed` and `cursor_secret` are not compared.

        Returns:
            The job, and whether it was joined.

        Raises:
            JobIdReused, JobQuotaExceeded ("jobs"), QueueFull ("memory"), BrokerDown.
        """
        limit = spec.failure_policy.max_failed_items if spec.failure_policy.HasField("max_failed_items") else ""
        match await self._on(
            spec.tenant,
            spec.job_id,
            "create_job",
            spec.SerializeToString(),
            _digest(spec),
            spec.model,
            spec.tenant,
            spec.ttl_s * 1000,
            spec.retention_s * 1000,
            spec.max_attempts,
            limit,
            self._limits.max_jobs,
        ):
            case [b"REUSED"]:
                raise JobIdReused(spec.job_id)
            case [b"QUOTA", int(jobs)]:
                raise JobQuotaExceeded(QUOTA_RETRY_S, "jobs", self._limits.max_jobs, jobs)
            case [made]:
                return await self.get(spec.tenant, spec.job_id), made == b"JOINED"
        raise BrokerError("unexpected reply")

    async def upload(
        self, tenant: str, job_id: str, first_index: int, items: Sequence[bytes], costs: Sequence[int]
    ) -> int:
        """Commit items; returns how many the job has then.

        They are cut into chunks, and what does not fill one joins the last chunk while that has not begun. Items that
        are committed already are skipped; their content is not compared.

        Args:
            first_index: index of the first of them.
            items: serialized JobItems of the job's task.
            costs: estimated tokens of each, prompt and output.

        Raises:
            UploadGap, JobStateForbids (sealed, ending or ended), JobQuotaExceeded ("bytes"), JobNotFound, QueueFull
            ("memory"), BrokerDown. What comes before the fault is committed.
        """
        at = committed = first_index
        for group in self._cut(items, costs):
            committed = await self._upload(tenant, job_id, at, group)
            taken = sum(n for n, _, _ in group)
            if committed < at + taken:  # one chunk had been committed in part
                behind = committed - first_index
                return await self.upload(tenant, job_id, committed, items[behind:], costs[behind:])
            at += taken
        return committed

    def _cut(self, items: Sequence[bytes], costs: Sequence[int]) -> list[list[tuple[int, int, bytes]]]:
        limits = self._limits
        groups: list[list[tuple[int, int, bytes]]] = []
        size = UPLOAD_BYTES
        for chunk in job_wire.cut(
            items,
            costs,
            most_items=limits.chunk_items,
            most_bytes=limits.chunk_bytes,
            most_tokens=limits.chunk_tokens,
        ):
            if size + len(chunk[2]) > UPLOAD_BYTES:
                groups.append([])
                size = 0
            groups[-1].append(chunk)
            size += len(chunk[2])
        return groups

    async def _upload(self, tenant: str, job_id: str, first: int, chunks: Sequence[tuple[int, int, bytes]]) -> int:
        limits = self._limits
        bounds = (limits.chunk_items, limits.chunk_bytes, limits.chunk_tokens, limits.max_bytes)
        arguments = [value for chunk in chunks for value in chunk]
        match await self._on(tenant, job_id, "upload", first, *bounds, *arguments):
            case [b"OK", int(committed)] | [b"TRIM", int(committed)]:
                return committed
            case [b"GAP", int(committed)]:
                raise UploadGap(committed)
            case [b"QUOTA", int(used)]:
                raise JobQuotaExceeded(QUOTA_RETRY_S, "bytes", limits.max_bytes, used)
            case [b"STATE", _]:
                raise JobStateForbids(job_id, (await self.get(tenant, job_id)).state)
        raise JobNotFound(job_id)

    async def seal(self, tenant: str, job_id: str, expected_items: int | None = None) -> JobRecord:
        """No more items come: the job ends when all have. With `expected_items`, only if it has so many.

        Raises:
            UploadGap, JobNotFound, BrokerDown.
        """
        return await self._change(tenant, job_id, "seal", "" if expected_items is None else expected_items)

    # ------------------------------------------------------------------ what its owner may do

    async def retry(self, tenant: str, job_id: str, request_id: str = "") -> JobRecord:
        """Run the failed items of an ended job again. A call with the request_id of the last one changes nothing.

        Raises:
            JobStateForbids (not ended), JobNotFound, BrokerDown.
        """
        return await self._change(tenant, job_id, "retry", request_id or secrets.token_hex(8))

    async def cancel(self, tenant: str, job_id: str) -> JobRecord:
        """Have nothing more begin and end what runs. An ended job stays as it is. Raises JobNotFound, BrokerDown."""
        return await self._change(tenant, job_id, "cancel")

    async def pause(self, tenant: str, job_id: str) -> JobRecord:
        """Have no further chunk begin. Raises JobStateForbids (ending or ended), JobNotFound, BrokerDown."""
        return await self._change(tenant, job_id, "pause")

    async def resume(self, tenant: str, job_id: str) -> JobRecord:
        """Undo `pause`. Raises JobStateForbids (ending or ended), JobNotFound, BrokerDown."""
        return await self._change(tenant, job_id, "resume")

    async def delete(self, tenant: str, job_id: str) -> None:
        """Forget an ended job with all it holds. Raises JobStateForbids (not ended), JobNotFound, BrokerDown."""
        await self._verb(tenant, job_id, "delete", "")

    async def _change(self, tenant: str, job_id: str, verb: str, argument: Argument = "") -> JobRecord:
        await self._verb(tenant, job_id, verb, argument)
        return await self.get(tenant, job_id)

    async def _verb(self, tenant: str, job_id: str, verb: str, argument: Argument) -> None:
        match await self._on(tenant, job_id, "change_job", verb, argument):
            case [b"OK"]:
                return
            case [b"GAP", int(committed)]:
                raise UploadGap(committed)
            case [b"STATE"]:
                raise JobStateForbids(job_id, (await self.get(tenant, job_id)).state)
        raise JobNotFound(job_id)

    async def sweep(self, run: Run) -> None:
        """End and forget jobs whose time is over. Called by the gateway's heartbeat, with its own connection."""
        for shard in range(self._shards):
            while await run("sweep", shard_root(shard)) == [b"OK", 32]:
                pass


def _digest(spec: JobSpec) -> bytes:
    """What must be equal for two jobs of one name to be the same job."""
    content = JobSpec()
    content.CopyFrom(spec)
    content.ClearField("seed")
    content.ClearField("cursor_secret")
    return hashlib.sha256(content.SerializeToString(deterministic=True)).digest()
