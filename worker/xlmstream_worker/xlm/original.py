"""Checkpoints of the original implementation: one `.pth` pickle with weights, training options and dictionary.

Source: facebookresearch/XLM, trainer.py (what is saved) and dictionary.py (how the vocabulary is spelt).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from .checkpoint import read_pickle
from .config import XLMConfig
from .errors import CheckpointError, ConfigError
from .loading import BASE_PREFIX

# The first entries of every XLM dictionary: <s>, </s>, <pad>, <unk>, <special0> ... <special9>.
N_SPECIAL_ENTRIES = 14
_PLAIN = (str, int, float, bool, type(None))


@dataclass(frozen=True)
class OriginalCheckpoint:
    """`weights` named as XLMWithLMHeadModel names them; `vocab` token to id in the spelling of `vocab.json`."""

    config: XLMConfig
    weights: dict[str, Tensor]
    vocab: dict[str, int]


def read_original(path: Path) -> OriginalCheckpoint:
    """Read an original `.pth` file: a language model, not a translation model (an encoder and a decoder).

    Raises CheckpointError if the file is unreadable or something else.
    """
    content = read_pickle(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds no checkpoint but a {type(content).__name__}")
    if "encoder" in content and "decoder" in content:
        raise CheckpointError(f"{path} is a translation model (encoder and decoder); only language models load")
    missing = [key for key in ("model", "params") if not isinstance(content.get(key), Mapping)]
    if missing:
        raise CheckpointError(f"{path} is no original XLM checkpoint: it has no {' and no '.join(missing)}")
    weights = _weights(path, content["model"])
    words = content.get("dico_word2id", {})
    if not isinstance(words, Mapping):
        raise CheckpointError(f"{path}: dico_word2id is a {type(words).__name__}, not a mapping of words to ids")
    try:
        config = _config(content["params"], weights)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return OriginalCheckpoint(config, weights, _vocab(path, words))


def _weights(path: Path, model: Mapping[object, object]) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for key, value in model.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: the model's {key!r} is a {type(value).__name__}, not a tensor")
        name = str(key).removeprefix("module.")  # training on several GPUs adds this
        weights[name if "pred_layer" in name else BASE_PREFIX + name] = value
    return weights


def _config(params: Mapping[object, object], weights: Mapping[str, Tensor]) -> XLMConfig:
    """The training options, all kept as the published configurations do; objects JSON cannot hold are dropped."""
    fields = {str(key): value for key, value in params.items() if _is_plain(value)}
    # The original's name for a head with weights of its own.
    fields["tie_word_embeddings"] = fields.get("share_inout_emb") is not False
    positions = weights.get(BASE_PREFIX + "position_embeddings.weight")
    if positions is not None:
        fields["max_position_embeddings"] = positions.shape[0]
    return XLMConfig(**fields)  # type: ignore[arg-type]  # the constructor checks what it is given


def _is_plain(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, (str, int)) and _is_plain(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    return isinstance(value, _PLAIN)


def _vocab(path: Path, words: Mapping[object, object]) -> dict[str, int]:
    """From "@@ marks an unfinished word" to "</w> marks a finished one". The special entries stay as they are."""
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
