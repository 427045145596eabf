"""What a stream of results knows about itself: where to continue, what has come and not been handed out. No IO."""

from __future__ import annotations

from collections import deque
from typing import Any

from xlmstream.jobs.values import JobResult, result_of
from xlmstream.tasks import Task
from xlmstream.v1.jobs_pb2 import StreamJobResultsRequest, StreamJobResultsResponse


class ResultsState:
    """How far one reading of results has come.

    Attributes:
        cursor: behind the last result received: `results(cursor=...)` continues there, in another process too. While
            `buffered` is 0 it stands exactly behind the last result handed out.
    """

    def __init__(self, request: StreamJobResultsRequest, task: Task) -> None:
        self._first = request
        self._task = task
        self._due: deque[JobResult[Any]] = deque()
        self.cursor = request.cursor

    @property
    def buffered(self) -> int:
        """Results received and not handed out yet."""
        return len(self._due)

    def _request(self) -> StreamJobResultsRequest:
        """What continues the reading."""
        request = StreamJobResultsRequest()
        request.CopyFrom(self._first)
        request.cursor = self.cursor
        return request

    def _accept(self, message: StreamJobResultsResponse) -> bool:
        """Take in one message; whether it is the last."""
        self._due.extend(result_of(result, self._task) for result in message.results)
        self.cursor = message.next_cursor or self.cursor
        return message.end
