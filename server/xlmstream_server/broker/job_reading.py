"""Jobs as a gateway sees them: what they are, how they stand, their results (asyncio)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from xlmstream.v1.job_pb2 import JOB_RESULT_FILTER_UNSPECIFIED, JobResultFilter, JobResultOrder

from xlmstream_server.broker.connection import Argument, Reply
from xlmstream_server.broker.errors import JobNotFound
from xlmstream_server.broker.ids import id_for
from xlmstream_server.broker.job_changes import JobChanges
from xlmstream_server.broker.job_results import PageMaker, Place, results_of
from xlmstream_server.broker.job_values import JobBacklog, JobRecord, ResultPage, read_record
from xlmstream_server.broker.scripts import shard_root

# Results that are looked through for one page, at least.
SCAN_BYTES = 4 << 20

Run = Callable[..., Awaitable[list[Reply]]]


class JobReader:
    """Looks at jobs and changes none. `run(script, root, *arguments)` calls a script of a shard."""

    def __init__(self, run: Run, shards: int) -> None:
        self._run = run
        self._shards = shards
        self._changes = JobChanges(self._versions)

    async def close(self) -> None:
        await self._changes.close()

    async def get(self, tenant: str, job_id: str) -> JobRecord:
        """The job now. Raises JobNotFound, BrokerDown."""
        jid = self._jid(tenant, job_id)
        found = (await self._records(_root(jid), [jid])).get(jid)
        if found is None:
            raise JobNotFound(job_id)
        return found

    async def list_jobs(self, tenant: str, *, limit: int, before: str = "") -> tuple[list[JobRecord], str]:
        """A page of a tenant's jobs, newest first, and the token of the next page.

        Args:
            limit: most jobs of the page.
            before: the token that came with the page before; "" for the first. "" is returned with the last page.

        Raises:
            ValueError: `before` is no token.
            BrokerDown.
        """
        created, _, last = before.partition(".")
        if before and not (created.isascii() and created.isdigit() and last):
            raise ValueError(f"not a page token: {before!r}")
        found: list[tuple[int, str]] = []
        for shard in range(self._shards):
            for entry in await self._run(
                "list_jobs", shard_root(shard), tenant, created or "+inf", last or "~", limit + 1
            ):
                match entry:
                    case [bytes(jid), bytes(made)]:
                        found.append((int(made), jid.decode()))
        found.sort(reverse=True)
        page, records = found[:limit], dict[str, JobRecord]()
        for shard in range(self._shards):
            root = shard_root(shard)
            mine = [jid for _, jid in page if _root(jid) == root]
            if mine:
                records |= await self._records(root, mine)
        token = f"{page[-1][0]}.{page[-1][1]}" if len(found) > limit else ""
        return [records[jid] for _, jid in page if jid in records], token

    def place_behind(self, record: JobRecord) -> str:
        """The token of a page that begins behind this job."""
        return f"{record.created_ms}.{self._jid(record.spec.tenant, record.spec.job_id)}"

    async def changed(self, tenant: str, job_id: str, version: int, timeout_s: float) -> bool:
        """Wait until the job has another version (true, also where it is gone) or the time is over (false).

        Survives the broker's absence. All who wait share one look every 0.25 s.
        """
        return await self._changes.wait(self._jid(tenant, job_id), version, timeout_s)

    async def results(
        self,
        tenant: str,
        job_id: str,
        *,
        order: JobResultOrder.ValueType,
        cursor: str,
        max_results: int,
        max_bytes: int,
        result_filter: JobResultFilter.ValueType = JOB_RESULT_FILTER_UNSPECIFIED,
    ) -> ResultPage:
        """The next results behind a cursor ("": from the beginning).

        At least one where there is one, however large; else within `max_results` and `max_bytes`.

        Raises:
            CursorInvalid, JobNotFound, BrokerDown.
        """
        pages = await self.result_pages(
            tenant,
            job_id,
            order=order,
            cursor=cursor,
            max_results=max_results,
            max_bytes=max_bytes,
            result_filter=result_filter,
        )
        return pages[0]

    async def result_pages(
        self,
        tenant: str,
        job_id: str,
        *,
        order: JobResultOrder.ValueType,
        cursor: str,
        max_results: int,
        max_bytes: int,
        result_filter: JobResultFilter.ValueType = JOB_RESULT_FILTER_UNSPECIFIED,
    ) -> list[ResultPage]:
        """As `results`, but every page that can be made of what was fetched: at least one.

        The broker gives whole chunks, which may hold many times `max_bytes`: a reader of all pages fetches each once.
        """
        jid = self._jid(tenant, job_id)
        maker = PageMaker(Place.read(cursor, order), max_results, max_bytes, result_filter)
        pages: list[ResultPage] = []
        scanned = 0
        while True:
            place = maker.place
            reply = await self._run("results", _root(jid), jid, place.order, place.at, max_bytes)
            match reply:
                case [b"OK", int(version), int(ended), int(places), *found]:
                    pass
                case _:
                    raise JobNotFound(job_id)
            for parts in found:
                raw = [part for part in parts if isinstance(part, bytes)] if isinstance(parts, list) else []
                scanned += sum(map(len, raw))
                results = results_of(raw, by_completion=place.by_completion)
                while not maker.add(results):
                    pages.append(ResultPage(maker.results, str(maker.place), False, True, version))
                    maker = maker.following()
            if pages or not found or maker.size_bytes >= max_bytes or scanned > SCAN_BYTES:
                at_end = ended == 1 and maker.place.at >= places
                if maker.results or at_end or not pages:
                    more = bool(found) and not at_end
                    pages.append(ResultPage(maker.results, str(maker.place), at_end, more, version))
                return pages

    async def backlog(self, models: Sequence[str]) -> list[JobBacklog]:
        """What waits of the jobs of each of these models ("name@version")."""
        jobs, chunks = [0] * len(models), [0] * len(models)
        for shard in range(self._shards):
            for i, entry in enumerate(await self._run("backlog", shard_root(shard), *models)):
                match entry:
                    case [int(waiting), int(parts)]:
                        jobs[i] += waiting
                        chunks[i] += parts
        return [JobBacklog(*row) for row in zip(models, jobs, chunks, strict=True)]

    async def usage(self, tenant: str) -> int:
        """Bytes that a tenant's jobs hold, inputs and results, over all shards."""
        used = 0
        for shard in range(self._shards):
            match await self._run("job_use", shard_root(shard), tenant):
                case [int(held)]:
                    used += held
        return used

    def _jid(self, tenant: str, job_id: str) -> str:
        """The internal id of a job. The space keeps it apart from the ids of requests."""
        return id_for(tenant, f"job {job_id}", 0, self._shards)

    async def _on(self, tenant: str, job_id: str, name: str, *arguments: Argument) -> list[Reply]:
        jid = self._jid(tenant, job_id)
        return await self._run(name, _root(jid), jid, *arguments)

    async def _records(self, root: bytes, jids: Sequence[str]) -> dict[str, JobRecord]:
        now_ms, *found = await self._run("get_jobs", root, *jids)
        records: dict[str, JobRecord] = {}
        for jid, entry in zip(jids, found, strict=True):
            match entry:
                case [list(fields), list(errors)]:
                    assert isinstance(now_ms, int)
                    records[jid] = read_record(_pairs(fields), _pairs(errors), now_ms)
        return records

    async def _versions(self, jids: Sequence[str]) -> Mapping[str, int]:
        found: dict[str, int] = {}
        for root in {_root(jid) for jid in jids}:
            mine = [jid for jid in jids if _root(jid) == root]
            for jid, version in zip(mine, await self._run("versions", root, *mine), strict=True):
                assert isinstance(version, int)
                found[jid] = version
        return found


def _root(jid: str) -> bytes:
    return shard_root(int(jid[:2], 16))


def _pairs(flat: Sequence[Reply]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for name, value in zip(flat[::2], flat[1::2], strict=True):
        assert isinstance(name, bytes)
        assert isinstance(value, bytes)
        found[name] = value
    return found
