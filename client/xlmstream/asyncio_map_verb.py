"""`AsyncClient.map` as users call it: which inputs and which result belong to the name of each task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Literal, overload

from xlmstream.asyncio_calls import Calls
from xlmstream.asyncio_map import MapStream
from xlmstream.keywords import Prompt
from xlmstream.messages import Generation, Tokens
from xlmstream.results import Answers, Choice, Classification, Embedding, FilledMask, Score, Tagging
from xlmstream.tasks import Choices, Question, TextPair, task_named


class MapVerb(ABC):
    """What a client adds: its calls."""

    @property
    @abstractmethod
    def _calls(self) -> Calls: ...

    @overload
    def map(
        self,
        task: Literal["generate", "translate"],
        inputs: Iterable[Prompt],
        /,
        *,
        ordered: bool = True,
        max_in_flight: int = 64,
        timeout_s: float | None = None,
        **keywords: Any,
    ) -> MapStream[Generation]: ...
    @overload
    def map(
        self,
        task: Literal["embed"],
        inputs: Iterable[Prompt],
        /,
        *,
        ordered: bool = True,
        max_in_flight: int = 64,
        timeout_s: float | None = None,
        **keywords: Any,
    ) -> MapStream[Embedding]: ...
    @overload
    def map(
        self,
        task: Literal["fill_mask"],
        inputs: Iterable[Prompt],
        /,
        *,
        ordered: bool = True,
        max_in_flight: int = 64,
        timeout_s: float | None = None,
        **keywords: Any,
    ) -> MapStream[FilledMask]: ...
    @overload
    def map(
        self,
        task: Literal["classify"],
        inputs: Iterable[Prompt | TextPair],
        /,
        *,
        ordered: bool = True,
        max_in_flight: int = 64,
        timeout_s: float | None = None,
        **keywords: Any,
    ) -> MapStream[Classification]: ...
    @overload
    def map(
        self,
        task: Literal["tag"],
        inputs: Iterable[Prompt],
        /,
        *,
        ordered: bool = True,
        max_in_flight: int = 64,
        timeout_s: float | None = None,
        **keywords: Any,
    ) -> MapStream[Tagging]: ...
    @overload
    def map(
        self,
        task: Literal["answer"],
        inputs: Iterable[Question],
        /,
        *,
        ordered: bool = True,
        max_in_flight: int = 64,
        timeout_s: float | None = None,
        **keywords: Any,
    ) -> MapStream[Answers]: ...
    @overload
    def map(
        self,
        task: Literal["choose"],
        inputs: Iterable[Choices],
        /,
        *,
        ordered: bool = True,
        max_in_flight: int = 64,
        timeout_s: float | None = None,
        **keywords: Any,
    ) -> MapStream[Choice]: ...
    @overload
    def map(
        self,
        task: Literal["score"],
        inputs: Iterable[Prompt],
        /,
        *,
        ordered: bool = True,
        max_in_flight: int = 64,
        timeout_s: float | None = None,
        **keywords: Any,
    ) -> MapStream[Score]: ...
    @overload
    def map(
        self,
        task: Literal["tokenize"],
        inputs: Iterable[Prompt],
        /,
        *,
        ordered: bool = True,
        max_in_flight: int = 64,
        timeout_s: float | None = None,
        **keywords: Any,
    ) -> MapStream[Tokens]: ...
    @overload
    def map(
        self,
        task: Literal["detokenize"],
        inputs: Iterable[Sequence[int]],
        /,
        *,
        ordered: bool = True,
        max_in_flight: int = 64,
        timeout_s: float | None = None,
        **keywords: Any,
    ) -> MapStream[str]: ...
    def map(
        self,
        task: str,
        inputs: Iterable[Any],
        /,
        *,
        ordered: bool = True,
        max_in_flight: int = 64,
        timeout_s: float | None = None,
        **keywords: Any,
    ) -> MapStream[Any]:
        """Any number of inputs of one task over one stream: the fastest way to have much done.

        >>> async for mapped in client.map("embed", lines, pooling="mean"):
        ...     print(mapped.index, mapped.result.tensor.shape)

        Each `Mapped` has its input, its place, and a result or an error: a bad input never fails its neighbours. A
        connection that breaks is replaced and what was unfinished is sent again. Leave early in a `async with` block.

        task: the name of a verb; `keywords` are those of that verb.
        inputs: taken as results are handed out, never all at once.
        ordered: results in the order of their inputs; otherwise as they are ready.
        max_in_flight: most inputs that are sent and not answered. The service has a limit of its own.
        timeout_s: time limit of the whole; None: none.
        """
        return MapStream(
            self._calls, task_named(task), inputs, keywords, timeout_s, ordered=ordered, max_in_flight=max_in_flight
        )
