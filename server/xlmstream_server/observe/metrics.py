"""Prometheus metrics of one gateway, in a registry of its own: two gateways in one process do not mix."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 600)


class Metrics:
    """The figures, by what they count. Names carry their unit; labels are bounded sets."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.calls = self._counter("calls", "Calls ended, by method and code.", "method", "code")
        self.call_seconds = Histogram(
            "xlmstream_call_seconds",
            "Time from request to status",
            ["method"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.open_calls = Gauge("xlmstream_open_calls", "Calls in progress.", ["method"], registry=self.registry)
        self.executions = self._counter("executions", "Executions submitted or joined, by outcome.", "outcome")
        self.events_received = self._counter("events_received", "Events that frames brought.")
        self.messages_sent = self._counter("messages_sent", "Stream messages written; each may join several events.")
        self.repairs = self._counter("repairs", "Journal reads for listeners that lacked events.")
        self.gaps = self._counter("gaps", "Times that frames may have been missed.")
        self.audited = self._counter("audited", "Executions audited against the broker.")
        self.resubmitted = self._counter("resubmitted", "Executions submitted again because the broker had lost them.")

        self.jobs_created = self._counter("jobs_created", "Calls of CreateJob answered, by outcome.", "outcome")
        self.jobs_retried = self._counter("jobs_retried", "Calls of RetryJob that ran items again.")
        self.job_items_uploaded = self._counter("job_items_uploaded", "Items of jobs taken in, by task.", "task")
        self.job_bytes_uploaded = self._counter("job_bytes_uploaded", "Bytes of items of jobs taken in.")
        self.job_results_sent = self._counter("job_results_sent", "Results of jobs sent, by task.", "task")
        self.job_result_bytes_sent = self._counter("job_result_bytes_sent", "Bytes of results of jobs sent.")
        self.jobs = self._gauge("jobs", "Jobs that the broker holds, by state; every gateway tells the same.", "state")
        self.job_items = self._gauge("job_items", "Items of those jobs, by task and state.", "task", "state")

    def count_job_items(self, task: str, items: Sequence[bytes]) -> None:
        """Count items of jobs that were taken in."""
        self.job_items_uploaded.labels(task).inc(len(items))
        self.job_bytes_uploaded.inc(sum(map(len, items)))

    def watch(self, name: str, description: str, value: Callable[[], float]) -> None:
        """A gauge that is read when it is scraped."""
        Gauge(name, description, registry=self.registry).set_function(value)

    @contextmanager
    def served(self, host: str, port: int) -> Iterator[int]:
        """Serve /metrics over HTTP while the context lasts; gives the port."""
        server, thread = start_http_server(port, host, self.registry)
        try:
            yield server.server_port
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def _gauge(self, name: str, description: str, *labels: str) -> Gauge:
        return Gauge(f"xlmstream_{name}", description, labels, registry=self.registry)

    def _counter(self, name: str, description: str, *labels: str) -> Counter:
        return Counter(f"xlmstream_{name}", description, labels, registry=self.registry)
