"""Word segmenters for the languages written without spaces: Chinese, Thai, Japanese.

Each is a third-party package, imported on first use; where it is missing the error says what to install.
"""

from pathlib import Path
from threading import Lock
from typing import Protocol

KYTEA_MODEL = Path("~/local/share/kytea/model.bin")


class MissingSegmenterError(ImportError):
    """The package, or its model file, that a language needs is not installed."""


class _KyTea(Protocol):
    def getWS(self, text: str) -> list[str]: ...  # noqa: N802 - the package's own name


class Segmenters:
    """The three segmenters of one tokenizer; threads may share it. Texts are cut, never changed."""

    def __init__(self) -> None:
        self._kytea: _KyTea | None = None
        self._kytea_lock = Lock()

    def chinese(self, text: str) -> list[str]:
        """jieba's default mode (dictionary and HMM). Its first use loads the dictionary: a second or two."""
        try:
            import jieba
        except ImportError as error:
            raise MissingSegmenterError(
                "Chinese (lang='zh') needs jieba: pip install 'xlmstream[zh]' (or pip install jieba)"
            ) from error
        return list(jieba.cut(text))

    def thai(self, text: str) -> list[str]:
        """PyThaiNLP's default engine (newmm); white space comes back as words."""
        try:
            from pythainlp.tokenize import word_tokenize
        except ImportError as error:
            raise MissingSegmenterError(
                "Thai (lang='th') needs PyThaiNLP: pip install 'xlmstream[th]' (or pip install pythainlp)"
            ) from error
        return list(word_tokenize(text))

    def japanese(self, text: str) -> list[str]:
        """KyTea with the model file that its own distribution (not the Python package) brings."""
        with self._kytea_lock:  # KyTea does not say that its analyser may be shared
            if self._kytea is None:
                self._kytea = _load_kytea()
            return list(self._kytea.getWS(text))


def _load_kytea() -> _KyTea:
    try:
        import Mykytea
    except ImportError as error:
        raise MissingSegmenterError(
            "Japanese (lang='ja') needs KyTea: pip install 'xlmstream[ja]' (or pip install kytea), "
            f"and a model file from http://www.phontron.com/kytea at {KYTEA_MODEL}"
        ) from error
    model = KYTEA_MODEL.expanduser()
    if not model.is_file():
        raise MissingSegmenterError(
            f"Japanese (lang='ja') needs KyTea's model file at {KYTEA_MODEL}, and it is not there. No Python "
            "package brings it: build KyTea 0.4.7 from http://www.phontron.com/kytea with --prefix=$HOME/local, "
            "or copy model.bin from its distribution"
        )
    try:
        kytea: _KyTea = Mykytea.Mykytea(f"-model {model}")
    except RuntimeError as error:
        raise MissingSegmenterError(f"{KYTEA_MODEL} is no model that KyTea can read: {error}") from error
    return kytea
