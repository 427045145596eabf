"""Checkpoints of the original implementation: one `.pth` pickle with weights, training options and dictionary.

A language model has its weights under `model`; a translation model has those of two under `encoder` and `decoder`.

Source: facebookresearch/XLM, trainer.py (what is saved) and dictionary.py (how the vocabulary is spelt).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from .checkpoint import BASE_PREFIX, read_pickle
from .config import XLMConfig
from .errors import CheckpointError, ConfigError
from .translation_config import XLMEncoderDecoderConfig

# The first entries of every XLM dictionary: <s>, </s>, <pad>, <unk>, <special0> ... <special9>.
N_SPECIAL_ENTRIES = 14
# Where a translation model keeps its weights.
SIDES = ("encoder", "decoder")
_PLAIN = (str, int, float, bool, type(None))


@dataclass(frozen=True)
class OriginalCheckpoint:
    """`weights` named as XLMWithLMHeadModel names them; `vocab` token to id in the spelling of `vocab.json`."""

    config: XLMConfig
    weights: dict[str, Tensor]
    vocab: dict[str, int]


@dataclass(frozen=True)
class OriginalTranslationModel:
    """`weights` named as XLMEncoderDecoder names them; `vocab` as above."""

    config: XLMEncoderDecoderConfig
    weights: dict[str, Tensor]
    vocab: dict[str, int]


def read_original(path: Path) -> OriginalCheckpoint:
    """Read an original `.pth` file: a language model, not a translation model (an encoder and a decoder).

    Raises CheckpointError if the file is unreadable or something else.
    """
    content = _content(path)
    if _is_translation(content):
        raise CheckpointError(f"{path} is a translation model (encoder and decoder): load it as an XLMEncoderDecoder")
    _require(path, content, "model")
    weights = _weights(path, content["model"])
    config = _config(path, content["params"], weights)
    named = {name if "pred_layer" in name else BASE_PREFIX + name: value for name, value in weights.items()}
    return OriginalCheckpoint(config, named, _vocab(path, content))


def read_original_translation(path: Path) -> OriginalTranslationModel:
    """Read an original `.pth` file of a translation model.

    The encoder's own projection to the vocabulary, which served its masked objective, translates nothing and is left
    out. Raises CheckpointError if the file is unreadable or something else.
    """
    content = _content(path)
    if "model" in content and not _is_translation(content):
        raise CheckpointError(f"{path} is a language model: load it as an XLMWithLMHeadModel")
    _require(path, content, *SIDES)
    encoder, decoder = (_weights(path, content[side]) for side in SIDES)
    encoder = {name: value for name, value in encoder.items() if "pred_layer" not in name}
    # One set of options serves both; the layers of each side are those it has.
    reads, writes = (
        _config(path, content["params"], weights, causal=causal, is_encoder=not causal, **_depth(weights))
        for weights, causal in ((encoder, False), (decoder, True))
    )
    try:
        config = XLMEncoderDecoderConfig(reads, writes)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    weights = {f"encoder.{name}": value for name, value in encoder.items()}
    weights |= {f"decoder.{name}": value for name, value in decoder.items()}
    return OriginalTranslationModel(config, weights, _vocab(path, content))


def is_translation_file(path: Path) -> bool:
    """Whether an original `.pth` file is that of a translation model. CheckpointError if it is unreadable."""
    return _is_translation(_content(path))


def _is_translation(content: Mapping[object, object]) -> bool:
    return all(side in content for side in SIDES)


def _content(path: Path) -> Mapping[object, Any]:
    content = read_pickle(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds no checkpoint but a {type(content).__name__}")
    return content


def _require(path: Path, content: Mapping[object, object], *keys: str) -> None:
    missing = [key for key in (*keys, "params") if not isinstance(content.get(key), Mapping)]
    if missing:
        raise CheckpointError(f"{path} is no original XLM checkpoint: it has no {' and no '.join(missing)}")


def _weights(path: Path, model: Mapping[object, object]) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for key, value in model.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: the model's {key!r} is a {type(value).__name__}, not a tensor")
        weights[str(key).removeprefix("module.")] = value  # training on several GPUs adds this
    return weights


def _depth(weights: Mapping[str, Tensor]) -> dict[str, int]:
    layers = {name.split(".")[1] for name in weights if name.startswith("attentions.")}
    return {"n_layers": len(layers)} if layers else {}


def _config(path: Path, params: Mapping[object, object], weights: Mapping[str, Tensor], **known: object) -> XLMConfig:
    """The training options, all kept as the published configurations do; objects JSON cannot hold are dropped."""
    fields = {str(key): value for key, value in params.items() if _is_plain(value)}
    # The original's name for a head with weights of its own.
    fields["tie_word_embeddings"] = fields.get("share_inout_emb") is not False
    positions = weights.get("position_embeddings.weight")
    if positions is not None:
        fields["max_position_embeddings"] = positions.shape[0]
    try:
        return XLMConfig(**fields | known)  # type: ignore[arg-type]  # the constructor checks what it is given
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _is_plain(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, (str, int)) and _is_plain(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    return isinstance(value, _PLAIN)


def _vocab(path: Path, content: Mapping[object, object]) -> dict[str, int]:
    """From "@@ marks an unfinished word" to "</w> marks a finished one". The special entries stay as they are."""
    words = content.get("dico_word2id", {})
    if not isinstance(words, Mapping):
        raise CheckpointError(f"{path}: dico_word2id is a {type(words).__name__}, not a mapping of words to ids")
    vocab: dict[str, int] = {}
    for word, index in words.items():
        if not isinstance(word, str) or not isinstance(index, int):
            raise CheckpointError(f"{path}: the dictionary maps {word!r} to {index!r}")
        if index < N_SPECIAL_ENTRIES:
            vocab[word] = index
        elif "@@" in word:
            vocab[word.replace("@@", "")] = index
        else:
            vocab[word + "</w>"] = index
    return vocab
