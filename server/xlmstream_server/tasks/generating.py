"""The tasks whose executions are generations: one input each, events as it grows, a seed, a key of its own."""

from __future__ import annotations

from xlmstream.v1.common_pb2 import TASK_GENERATE, TASK_TRANSLATE

GENERATING = frozenset((TASK_GENERATE, TASK_TRANSLATE))
