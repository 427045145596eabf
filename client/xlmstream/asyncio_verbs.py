"""The verbs of `AsyncClient` for the tasks that do not generate, and `map`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Unpack, overload

from xlmstream import messages
from xlmstream.asyncio_calls import Calls
from xlmstream.asyncio_map import MapStream
from xlmstream.messages import Generation, Tokens
from xlmstream.requests import (
    AnswerKeywords,
    ChooseKeywords,
    ClassifyKeywords,
    EmbedKeywords,
    FillMaskKeywords,
    Prompt,
    ScoreKeywords,
    TagKeywords,
)
from xlmstream.results import Answers, Choice, Classification, Embedding, FilledMask, Score, Tagging
from xlmstream.tasks import Choices, Question, TextPair, batch_of, task_named
from xlmstream.tensor import array_of, stacked
from xlmstream.v1.common_pb2 import TextInput


class TaskVerbs(ABC):
    """What a client adds to these: its calls and its time limit.

    Each verb takes one input or a sequence of them and returns one result or a list. Where one of several inputs fails,
    its error is raised, `input_index` telling whose it is; `map` tells of each by itself.
    """

    @property
    @abstractmethod
    def _calls(self) -> Calls: ...

    @abstractmethod
    def _limit(self, timeout_s: float | None) -> float: ...

    async def embed(
        self, texts: Prompt | Sequence[Prompt], /, *, timeout_s: float | None = None, **keywords: Unpack[EmbedKeywords]
    ) -> Any:
        """The vectors of one text or several: a numpy array [dimensions], of several texts [texts, dimensions].

        With pooling "none" a text has an array [tokens, dimensions], several texts a list of those. Without numpy
        installed `xlmstream.Tensor` takes the place of arrays.
        """
        inputs, alone = batch_of(texts)
        found: list[Embedding] = await self._task("embed", inputs, keywords, timeout_s)
        return array_of(found[0].tensor) if alone else stacked([one.tensor for one in found])

    @overload  # a str is a sequence of str as well: the first signature that fits is the one meant
    async def fill_mask(  # type: ignore[overload-overlap]
        self, text: Prompt, /, *, timeout_s: float | None = None, **keywords: Unpack[FillMaskKeywords]
    ) -> FilledMask: ...
    @overload
    async def fill_mask(
        self, texts: Sequence[Prompt], /, *, timeout_s: float | None = None, **keywords: Unpack[FillMaskKeywords]
    ) -> list[FilledMask]: ...
    async def fill_mask(
        self,
        texts: Prompt | Sequence[Prompt],
        /,
        *,
        timeout_s: float | None = None,
        **keywords: Unpack[FillMaskKeywords],
    ) -> FilledMask | list[FilledMask]:
        """What may stand in the gaps of one text or several. A gap is written as the model's `mask_token`."""
        inputs, alone = batch_of(texts)
        found: list[FilledMask] = await self._task("fill_mask", inputs, keywords, timeout_s)
        return found[0] if alone else found

    @overload  # a str is a sequence of str as well: the first signature that fits is the one meant
    async def classify(  # type: ignore[overload-overlap]
        self, text: Prompt | TextPair, /, *, timeout_s: float | None = None, **keywords: Unpack[ClassifyKeywords]
    ) -> Classification: ...
    @overload
    async def classify(
        self,
        texts: Sequence[Prompt | TextPair],
        /,
        *,
        timeout_s: float | None = None,
        **keywords: Unpack[ClassifyKeywords],
    ) -> list[Classification]: ...
    async def classify(
        self,
        texts: Prompt | TextPair | Sequence[Prompt | TextPair],
        /,
        *,
        timeout_s: float | None = None,
        **keywords: Unpack[ClassifyKeywords],
    ) -> Classification | list[Classification]:
        """The labels of one text or several, or of pairs of texts (`TextPair`)."""
        inputs, alone = batch_of(texts)
        found: list[Classification] = await self._task("classify", inputs, keywords, timeout_s)
        return found[0] if alone else found

    @overload  # a str is a sequence of str as well: the first signature that fits is the one meant
    async def tag(  # type: ignore[overload-overlap]
        self, text: Prompt, /, *, timeout_s: float | None = None, **keywords: Unpack[TagKeywords]
    ) -> Tagging: ...
    @overload
    async def tag(
        self, texts: Sequence[Prompt], /, *, timeout_s: float | None = None, **keywords: Unpack[TagKeywords]
    ) -> list[Tagging]: ...
    async def tag(
        self, texts: Prompt | Sequence[Prompt], /, *, timeout_s: float | None = None, **keywords: Unpack[TagKeywords]
    ) -> Tagging | list[Tagging]:
        """The labels of the words of one text or several, and the entities they form."""
        inputs, alone = batch_of(texts)
        found: list[Tagging] = await self._task("tag", inputs, keywords, timeout_s)
        return found[0] if alone else found

    @overload  # a str is a sequence of str as well: the first signature that fits is the one meant
    async def score(  # type: ignore[overload-overlap]
        self, text: Prompt, /, *, timeout_s: float | None = None, **keywords: Unpack[ScoreKeywords]
    ) -> Score: ...
    @overload
    async def score(
        self, texts: Sequence[Prompt], /, *, timeout_s: float | None = None, **keywords: Unpack[ScoreKeywords]
    ) -> list[Score]: ...
    async def score(
        self, texts: Prompt | Sequence[Prompt], /, *, timeout_s: float | None = None, **keywords: Unpack[ScoreKeywords]
    ) -> Score | list[Score]:
        """How probable one text is, or each of several."""
        inputs, alone = batch_of(texts)
        found: list[Score] = await self._task("score", inputs, keywords, timeout_s)
        return found[0] if alone else found

    @overload
    async def answer(
        self,
        question: Prompt,
        context: Prompt,
        /,
        *,
        timeout_s: float | None = None,
        **keywords: Unpack[AnswerKeywords],
    ) -> Answers: ...
    @overload
    async def answer(
        self, questions: Sequence[Question], /, *, timeout_s: float | None = None, **keywords: Unpack[AnswerKeywords]
    ) -> list[Answers]: ...
    async def answer(
        self,
        questions: Prompt | Sequence[Question],
        context: Prompt | None = None,
        /,
        *,
        timeout_s: float | None = None,
        **keywords: Unpack[AnswerKeywords],
    ) -> Answers | list[Answers]:
        """The answer to a question in a text, or to each of several (`Question`)."""
        if isinstance(questions, str | TextInput):
            if context is None:
                raise TypeError("answer takes a question and its context, or a sequence of Question")
            alone: list[Answers] = await self._task("answer", [Question(questions, context)], keywords, timeout_s)
            return alone[0]
        found: list[Answers] = await self._task("answer", list(questions), keywords, timeout_s)
        return found

    @overload
    async def choose(
        self,
        prompt: Prompt,
        choices: Sequence[Prompt],
        /,
        *,
        timeout_s: float | None = None,
        **keywords: Unpack[ChooseKeywords],
    ) -> Choice: ...
    @overload
    async def choose(
        self, prompts: Sequence[Choices], /, *, timeout_s: float | None = None, **keywords: Unpack[ChooseKeywords]
    ) -> list[Choice]: ...
    async def choose(
        self,
        prompts: Prompt | Sequence[Choices],
        choices: Sequence[Prompt] | None = None,
        /,
        *,
        timeout_s: float | None = None,
        **keywords: Unpack[ChooseKeywords],
    ) -> Choice | list[Choice]:
        """Which choice fits a text, or each of several texts with theirs (`Choices`)."""
        if isinstance(prompts, str | TextInput):
            if choices is None:
                raise TypeError("choose takes a prompt and its choices, or a sequence of Choices")
            alone: list[Choice] = await self._task("choose", [Choices(prompts, choices)], keywords, timeout_s)
            return alone[0]
        found: list[Choice] = await self._task("choose", list(prompts), keywords, timeout_s)
        return found

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

    async def _task(
        self, name: str, inputs: Sequence[Any], keywords: Mapping[str, Any], timeout_s: float | None
    ) -> list[Any]:
        task = task_named(name)
        response = await self._calls.unary(
            lambda gateway: getattr(gateway.inference, task.rpc),
            task.request_of(inputs, keywords),
            timeout_s=self._limit(timeout_s),
            request_id=keywords.get("request_id"),
        )
        return messages.all_or_raise(messages.outcomes(response.outputs, task.result_of, len(inputs)))
