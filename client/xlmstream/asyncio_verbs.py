"""The verbs of `AsyncClient` for the tasks that do not generate."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Unpack, overload

from xlmstream import outputs
from xlmstream.asyncio_map_verb import MapVerb
from xlmstream.keywords import (
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


class TaskVerbs(MapVerb):
    """What a client adds to these: its calls and its time limit.

    Each verb takes one input or a sequence of them and returns one result or a list. Where one of several inputs fails,
    its error is raised, `input_index` telling whose it is; `map` tells of each by itself.
    """

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
        return outputs.all_or_raise(outputs.outcomes(response.outputs, task.result_of, len(inputs)))
