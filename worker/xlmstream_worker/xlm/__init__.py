"""The XLM library: configuration, tokenizer, models and checkpoints. Usable alone; knows nothing of serving.

Names are imported on first use, so that a process which only tokenises does not load torch.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .beam_search import BeamSearch as BeamSearch
    from .beam_search import Hypothesis as Hypothesis
    from .classification import XLMForMultipleChoice as XLMForMultipleChoice
    from .classification import XLMForSequenceClassification as XLMForSequenceClassification
    from .classification import XLMForTokenClassification as XLMForTokenClassification
    from .config import XLMConfig as XLMConfig
    from .convert import convert_original as convert_original
    from .decoder import XLMDecoder as XLMDecoder
    from .encoder_decoder import XLMEncoderDecoder as XLMEncoderDecoder
    from .errors import CheckpointError as CheckpointError
    from .errors import ConfigError as ConfigError
    from .errors import XLMError as XLMError
    from .kv_cache import DecoderCache as DecoderCache
    from .kv_cache import KVCache as KVCache
    from .language_model import XLMWithLMHeadModel as XLMWithLMHeadModel
    from .loading import LoadReport as LoadReport
    from .model import XLMModel as XLMModel
    from .outputs import TranslationOutput as TranslationOutput
    from .outputs import XLMForQuestionAnsweringOutput as XLMForQuestionAnsweringOutput
    from .packed import PackedBatch as PackedBatch
    from .packed import PackedStates as PackedStates
    from .packed import encode_packed as encode_packed
    from .packed import pack as pack
    from .question_answering import XLMForQuestionAnswering as XLMForQuestionAnswering
    from .question_answering import XLMForQuestionAnsweringSimple as XLMForQuestionAnsweringSimple
    from .tokenizer import XLMTokenizer as XLMTokenizer
    from .translation_config import XLMEncoderDecoderConfig as XLMEncoderDecoderConfig

_HOMES = {
    "beam_search": ("BeamSearch", "Hypothesis"),
    "classification": ("XLMForMultipleChoice", "XLMForSequenceClassification", "XLMForTokenClassification"),
    "config": ("XLMConfig",),
    "convert": ("convert_original",),
    "decoder": ("XLMDecoder",),
    "encoder_decoder": ("XLMEncoderDecoder",),
    "errors": ("CheckpointError", "ConfigError", "XLMError"),
    "kv_cache": ("DecoderCache", "KVCache"),
    "language_model": ("XLMWithLMHeadModel",),
    "loading": ("LoadReport",),
    "model": ("XLMModel",),
    "outputs": (
        "TranslationOutput",
        "XLMForQuestionAnsweringOutput",
    ),
    "packed": ("PackedBatch", "PackedStates", "encode_packed", "pack"),
    "question_answering": ("XLMForQuestionAnswering", "XLMForQuestionAnsweringSimple"),
    "tokenizer": ("XLMTokenizer",),
    "translation_config": ("XLMEncoderDecoderConfig",),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
