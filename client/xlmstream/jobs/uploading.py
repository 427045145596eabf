"""What an upload knows about itself: which items the service has, which are kept to be sent again. No IO.

Items are numbered by their place in the job. The service commits them in order and tells how many it has; what is
committed already is passed over, so an upload that is begun again goes on where the last one ended. Items are kept from
the moment they are read until they are committed: a few MiB, whatever the size of the job.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import cast

import google_crc32c

from xlmstream.errors import MessageTooLarge, UploadGap
from xlmstream.jobs.requests import ItemKeywords
from xlmstream.jobs.values import JobItem
from xlmstream.keywords import TextKeywords
from xlmstream.requests import assign
from xlmstream.tasks import Task
from xlmstream.v1 import job_pb2
from xlmstream.v1.jobs_pb2 import UploadChunk, UploadHeader, UploadJobItemsRequest

# Bytes of items in one message.
MESSAGE_BYTES = 1 << 18
# Bytes of items in one call: what a broken connection sends again. Twice as much is kept, so that the next call is read
# while one is on its way.
CALL_BYTES = 4 << 20
# Items of a slow source are sent after so long, however few they are.
LINGER_S = 1.0


class UploadState:
    """How far one upload has come.

    Args:
        job_id: the job.
        task: its task.
        keywords: what holds for items that do not say otherwise.
        first_index: the place in the job of the first item to be added.
        now: seconds of a clock that never goes back.
    """

    def __init__(
        self,
        job_id: str,
        task: Task,
        keywords: ItemKeywords,
        first_index: int,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.job_id = job_id
        self._task = task
        self._keywords = cast(TextKeywords, keywords)
        self._start = first_index
        self._now = now
        self._message_bytes = MESSAGE_BYTES
        self.restart()

    def restart(self) -> None:
        """All items will be added again, from the first."""
        self.next_index = self._start
        """Place in the job of the next item to be added."""
        self._committed = self._start
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self._added_at = 0.0

    @property
    def idle(self) -> bool:
        """Whether everything that was added is committed."""
        return not self._kept

    @property
    def ready(self) -> bool:
        """Whether there is enough for a call, or something that has waited long enough."""
        return self._kept_bytes >= CALL_BYTES or (bool(self._kept) and self._now() - self._added_at >= LINGER_S)

    @property
    def full(self) -> bool:
        """Whether no more may be added before something is committed."""
        return self._kept_bytes >= 2 * CALL_BYTES

    def add(self, given: object) -> None:
        """Take the next item, an input or a JobItem. Raises InvalidInput, naming its index, where it is none."""
        if self.next_index >= self._committed:
            data = self._encoded(given)
            if not self._kept:
                self._added_at = self._now()
            self._kept.append(data)
            self._kept_bytes += len(data)
        self.next_index += 1

    def committed(self, count: int) -> bool:
        """Learn how many items the job has. False where it lacks items that are not kept any more: see `restart`."""
        first_kept = self.next_index - len(self._kept)
        if count < first_kept:
            return False
        for _ in range(min(count - first_kept, len(self._kept))):
            self._kept_bytes -= len(self._kept.popleft())
        self._added_at = self._now()
        self._committed = count
        return True

    def next_call(self) -> list[UploadJobItemsRequest]:
        """The messages that bring what is not committed, as much as one call may."""
        messages = [UploadJobItemsRequest(header=UploadHeader(job_id=self.job_id))]
        first, sent_bytes = self.next_index - len(self._kept), 0
        items: list[bytes] = []
        size_bytes = 0
        for data in self._kept:
            if items and size_bytes + len(data) > self._message_bytes:
                messages.append(_chunk(first, items))
                first, sent_bytes = first + len(items), sent_bytes + size_bytes
                items, size_bytes = [], 0
                if sent_bytes >= CALL_BYTES:
                    return messages
            items.append(data)
            size_bytes += len(data)
        return [*messages, _chunk(first, items)]

    def shrink(self, error: MessageTooLarge) -> None:
        """Send smaller messages. Raises `error` where an item alone is too large."""
        limit = int(error.metadata.get("max", 0)) or self._message_bytes
        self._message_bytes = min(limit, self._message_bytes) // 2
        if not self._message_bytes or any(len(data) > limit for data in self._kept):
            raise error

    def lost(self, count: int) -> UploadGap:
        """What to tell where items that the service had confirmed are gone and cannot be read again."""
        return UploadGap(
            f"the service has {count} items, fewer than it had confirmed; upload from something that can be read again",
            reason="UPLOAD_GAP",
            metadata={"items_committed": str(count)},
        )

    def _encoded(self, given: object) -> bytes:
        path = f"items[{self.next_index}]"
        key, content = (given.key, given.input) if isinstance(given, JobItem) else ("", given)
        item = job_pb2.JobItem()
        assign(item, "key", key, path=f"{path}.key")
        getattr(item, self._task.branch).CopyFrom(self._task.input_of(content, self._keywords, path))
        return item.SerializeToString()


def _chunk(first_index: int, items: list[bytes]) -> UploadJobItemsRequest:
    checksum = google_crc32c.value(b"".join(items))
    return UploadJobItemsRequest(chunk=UploadChunk(first_index=first_index, items=items, crc32c=checksum))
