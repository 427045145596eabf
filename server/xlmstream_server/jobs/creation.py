"""From CreateJob to a job: what is wrong with the request, what a repeated one finds, what the broker is given."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from itertools import islice

from xlmstream.status import quote
from xlmstream.v1.common_pb2 import Truncation
from xlmstream.v1.jobs_pb2 import CreateJobRequest

from xlmstream_server import errors
from xlmstream_server.broker import BrokerError, JobIdReused, JobNotFound, JobRecord, JobStore
from xlmstream_server.broker.v1.messages_pb2 import JobSpec
from xlmstream_server.catalogue import Catalogue
from xlmstream_server.config import Limits
from xlmstream_server.jobs.items import costs_of
from xlmstream_server.jobs.kinds import KINDS, JobKind
from xlmstream_server.observe.metrics import Metrics
from xlmstream_server.validation import REQUEST_ID, Violations

JOB_ID = re.compile(r"[a-z][a-z0-9-]{0,62}")
MAX_LABELS = 64
MAX_LABEL_CHARS = 63
LEAST_SECONDS, MOST_SECONDS = 60, 30 * 24 * 3600
DEFAULT_TTL_S = 7 * 24 * 3600
DEFAULT_RETENTION_S = 24 * 3600
DEFAULT_ATTEMPTS, MOST_ATTEMPTS = 3, 10


class Creation:
    """Makes jobs."""

    def __init__(self, store: JobStore, catalogue: Catalogue, limits: Limits, metrics: Metrics) -> None:
        self._store = store
        self._catalogue = catalogue
        self._limits = limits
        self._metrics = metrics

    async def create(self, tenant: str, request: CreateJobRequest) -> JobRecord:
        """The job that `request` makes, or that it has made before.

        Raises ServiceError: INVALID_INPUT, MODEL_NOT_FOUND, TASK_UNSUPPORTED, NO_WORKER, JOB_ID_REUSED,
        REQUEST_ID_REUSED, QUOTA_EXCEEDED, QUEUE_DOWN.
        """
        kind = self._check(request)
        named = request.job_id or request.request_id
        job_id = request.job_id or self._store.job_id_for(tenant, request.request_id)
        try:
            before = await self._known(tenant, job_id) if named else None
            if before is not None and is_named(before.spec.model, request.model):
                model = before.spec.model  # with the version that was served then, whatever is served now
            else:
                model = self._model(request, kind)
            items = [item.SerializeToString() for item in request.items]
            costs, wrong = costs_of(items, 0, kind.branch, kind.estimate(request.task, self._catalogue.known(model)))
            if wrong:
                raise wrong
            record, joined = await self._store.create(self._spec(tenant, job_id, model, request))
            self._metrics.jobs_created.labels("joined" if joined else "made").inc()
            if record.items < len(items):
                await self._store.upload(tenant, job_id, 0, items, costs)
                self._metrics.count_job_items(kind.branch, items)
            if request.seal and not record.sealed:
                return await self._store.seal(tenant, job_id)
            return await self._store.get(tenant, job_id) if items else record
        except JobIdReused as cause:
            reused = errors.job_id_reused(job_id) if request.job_id else errors.request_id_reused("request_id")
            raise reused from cause
        except BrokerError as cause:
            raise errors.from_broker(cause) from cause

    def _check(self, request: CreateJobRequest) -> JobKind:
        """The kind of job. Raises ServiceError for what is wrong whatever is served."""
        found = Violations()
        branch = request.task.WhichOneof("parameters")
        found.check(branch is not None, "task", f"set exactly one of {', '.join(KINDS)}")
        if request.request_id:
            right = REQUEST_ID.fullmatch(request.request_id) is not None
            found.check(right, "request_id", "1 to 128 letters, digits, '.', '_', ':' and '-'")
        if request.job_id:
            right = JOB_ID.fullmatch(request.job_id) is not None
            found.check(right, "job_id", "1 to 63 lower-case letters, digits and '-', a letter first")
        found.known("truncation", request.truncation, Truncation)
        check_labels(found, request.labels)
        for name in ("ttl_s", "retention_s"):
            if request.HasField(name):
                found.within(name, getattr(request, name), LEAST_SECONDS, MOST_SECONDS)
        if request.HasField("max_attempts"):
            found.within("max_attempts", request.max_attempts, 1, MOST_ATTEMPTS)
        found.at_most("items", len(request.items), self._limits.max_inputs, "items")
        found.raise_if_any()
        return KINDS[branch or ""]

    def _model(self, request: CreateJobRequest, kind: JobKind) -> str:
        """The full name of the model to run on. Raises ServiceError where it cannot do what is asked."""
        model = self._catalogue.serving(request.model, kind.task)
        found = Violations()
        kind.check(found, request.task, model, self._limits)
        found.raise_if_any()
        return model.full_name

    def _spec(self, tenant: str, job_id: str, model: str, request: CreateJobRequest) -> JobSpec:
        return JobSpec(
            job_id=job_id,
            tenant=tenant,
            model=model,
            task=request.task,
            truncation=request.truncation,
            labels=request.labels,
            failure_policy=request.failure_policy if request.HasField("failure_policy") else None,
            max_attempts=request.max_attempts or DEFAULT_ATTEMPTS,
            ttl_s=request.ttl_s or DEFAULT_TTL_S,
            retention_s=request.retention_s or DEFAULT_RETENTION_S,
            seed=secrets.randbits(63),
            cursor_secret=secrets.token_hex(16),
        )

    async def _known(self, tenant: str, job_id: str) -> JobRecord | None:
        try:
            return await self._store.get(tenant, job_id)
        except JobNotFound:
            return None


def is_named(full_name: str, given: str) -> bool:
    """Whether a caller who names no model, "name" or "name@version" may mean this one."""
    return given in ("", full_name, full_name.partition("@")[0])


def check_labels(found: Violations, labels: Mapping[str, str]) -> None:
    found.at_most("labels", len(labels), MAX_LABELS, "labels")
    for key, value in islice(labels.items(), MAX_LABELS):
        path = f"labels[{quote(key)}]"
        found.check(1 <= len(key) <= MAX_LABEL_CHARS, path, f"a key has 1 to {MAX_LABEL_CHARS} characters")
        found.check(
            len(value) <= MAX_LABEL_CHARS, path, f"{len(value)} characters; at most {MAX_LABEL_CHARS} are taken"
        )
