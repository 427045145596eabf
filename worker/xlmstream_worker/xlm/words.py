"""From a text in some language to the words that byte-pair encoding is applied to."""

from functools import lru_cache
from typing import TypeVar

from xlmstream_worker.xlm.moses import MosesTokenizer
from xlmstream_worker.xlm.normalize import fold_romanian, normalize
from xlmstream_worker.xlm.rewriting import PlainText, Text
from xlmstream_worker.xlm.segmenters import Segmenters

AnyText = TypeVar("AnyText", bound=Text)


# Written without spaces: cut by a segmenter instead of Moses.
SEGMENTED_LANGUAGES = frozenset(("zh", "th", "ja"))


class WordCutter:
    """Normalises a text and cuts it into words. Threads may share it.

    Attributes:
        folds: the argument `fold`.

    Args:
        fold: lower-case the words and drop their accents (all models but the 17- and 100-language ones).
    """

    def __init__(self, fold: bool) -> None:
        self.folds = fold
        self._segmenters = Segmenters()

    def words(self, text: AnyText, lang: str) -> list[AnyText]:
        """The words of `text`, which is used up.

        Chinese, Thai and Japanese go to their segmenters, every other language (known or not) to Moses.

        Raises:
            MissingSegmenterError: the language needs a package or a model file that is not installed.
        """
        if lang in ("th", "ja"):
            return self._segmented(text, lang)
        return self._spaced(text, lang).split()

    def plain_words(self, text: str, lang: str) -> list[str]:
        """The same without memory of where they come from."""
        if lang in ("th", "ja"):
            return [word.value for word in self._segmented(PlainText(text), lang)]
        return self._spaced(PlainText(text), lang).value.split()

    def _spaced(self, text: AnyText, lang: str) -> AnyText:
        """The text with white space between its words and nowhere else."""
        if lang == "zh":
            text = text.spaced(self._segmenters.chinese(text.value))
        normalize(text, lang)
        if lang == "ro":
            fold_romanian(text)
        if lang != "zh":
            moses_of(lang).tokenize(text)
        if self.folds:
            text.fold()
        return text

    def _segmented(self, text: AnyText, lang: str) -> list[AnyText]:
        normalize(text, lang)
        segment = self._segmenters.thai if lang == "th" else self._segmenters.japanese
        words = text.segments(segment(text.value))
        if self.folds:
            for word in words:
                word.fold()
            words = [part for word in words for part in word.split(" ")]
        return [word for word in words if word.value]


@lru_cache(maxsize=256)
def moses_of(lang: str) -> MosesTokenizer:
    """The Moses tokenizer of a language, made at its first use; all models of a process share it."""
    return MosesTokenizer(lang)
