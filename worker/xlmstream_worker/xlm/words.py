"""From a text in some language to the words that byte-pair encoding is applied to."""

from typing import TypeVar

from xlmstream_worker.xlm.moses import MosesTokenizer
from xlmstream_worker.xlm.normalize import fold_romanian, normalize
from xlmstream_worker.xlm.rewriting import Text
from xlmstream_worker.xlm.segmenters import Segmenters

AnyText = TypeVar("AnyText", bound=Text)


class WordCutter:
    """Normalises a text and cuts it into words. Threads may share it.

    Args:
        fold: lower-case the words and drop their accents (all models but the 17- and 100-language ones).
    """

    def __init__(self, fold: bool) -> None:
        self._fold = fold
        self._segmenters = Segmenters()
        self._moses: dict[str, MosesTokenizer] = {}

    def words(self, text: AnyText, lang: str) -> list[AnyText]:
        """The words of `text`, which is used up.

        Chinese, Thai and Japanese go to their segmenters, every other language (known or not) to Moses.

        Raises:
            MissingSegmenterError: the language needs a package or a model file that is not installed.
        """
        words = self._cut(text, lang)
        if self._fold:
            for word in words:
                word.fold()
            words = [part for word in words for part in (word.split(" ") if " " in word.value else (word,))]
        return [word for word in words if word.value]

    def _cut(self, text: AnyText, lang: str) -> list[AnyText]:
        if lang == "zh":
            text = text.spaced(self._segmenters.chinese(text.value))
            normalize(text, lang)
            return text.split()
        normalize(text, lang)
        if lang == "th":
            return text.segments(self._segmenters.thai(text.value))
        if lang == "ja":
            return text.segments(self._segmenters.japanese(text.value))
        if lang == "ro":
            fold_romanian(text)
        return self.moses(lang).words(text)

    def moses(self, lang: str) -> MosesTokenizer:
        """The Moses tokenizer of a language, made at its first use."""
        moses = self._moses.get(lang)
        if moses is None:
            moses = self._moses[lang] = MosesTokenizer(lang)
        return moses
