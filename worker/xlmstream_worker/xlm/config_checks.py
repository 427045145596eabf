"""What a configuration must satisfy before a model can be built from it, and the conversions JSON asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .errors import ConfigError

if TYPE_CHECKING:
    from .config import XLMConfig

PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")
SUMMARY_TYPES = ("first", "last", "mean", "cls_index", "attn")

_POSITIVE = ("vocab_size", "emb_dim", "n_layers", "n_heads", "n_langs", "max_position_embeddings")
_RANKS = ("start_n_top", "end_n_top")
_TOKEN_IDS = ("bos_index", "eos_index", "unk_index", "mask_index")
_FLAGS = (
    "gelu_activation",
    "sinusoidal_embeddings",
    "causal",
    "asm",
    "use_lang_emb",
    "is_encoder",
    "summary_use_proj",
    "summary_proj_to_labels",
    "return_dict",
    "output_hidden_states",
    "output_attentions",
    "torchscript",
    "tie_word_embeddings",
)
_PROBABILITIES = ("dropout", "attention_dropout", "summary_first_dropout")
_NON_NEGATIVE = ("embed_init_std", "init_std", "layer_norm_eps")


def check_config(config: XLMConfig) -> None:
    """Raise ConfigError, naming the field and the value, if no model can have this configuration."""
    for name in (*_POSITIVE, *_RANKS):
        _require_integer(config, name, minimum=1)
    for name in (*_TOKEN_IDS, "pad_index", "chunk_size_feed_forward"):
        _require_integer(config, name, minimum=0)
    for name in _FLAGS:
        if not isinstance(getattr(config, name), bool):
            raise ConfigError(f"{name} must be true or false, not {getattr(config, name)!r}")
    for name in _PROBABILITIES:
        _require_number(config, name, maximum=1.0)
    for name in _NON_NEGATIVE:
        _require_number(config, name, maximum=float("inf"))
    if config.emb_dim % config.n_heads:
        raise ConfigError(f"emb_dim {config.emb_dim} is not a multiple of n_heads {config.n_heads}")
    if config.pad_index >= config.vocab_size:
        raise ConfigError(f"pad_index {config.pad_index} lies outside the vocabulary of {config.vocab_size}")
    if config.summary_type not in SUMMARY_TYPES:
        raise ConfigError(f"summary_type must be one of {', '.join(SUMMARY_TYPES)}, not {config.summary_type!r}")
    if config.problem_type is not None and config.problem_type not in PROBLEM_TYPES:
        raise ConfigError(f"problem_type must be one of {', '.join(PROBLEM_TYPES)}, not {config.problem_type!r}")
    if not all(isinstance(label, str) for label in config.id2label.values()):
        raise ConfigError(f"id2label must map to names, not {config.id2label!r}")
    _check_pruned_heads(config)


def _check_pruned_heads(config: XLMConfig) -> None:
    for layer, heads in config.pruned_heads.items():
        if not 0 <= layer < config.n_layers:
            raise ConfigError(f"pruned_heads names layer {layer} of a model with {config.n_layers}")
        if not isinstance(heads, (list, tuple, set)) or not all(
            isinstance(head, int) and 0 <= head < config.n_heads for head in heads
        ):
            raise ConfigError(f"pruned_heads[{layer}] must list heads from 0 to {config.n_heads - 1}, not {heads!r}")
        if len(set(heads)) == config.n_heads:
            raise ConfigError(f"pruned_heads[{layer}] leaves the layer without a head")


def _require_integer(config: XLMConfig, name: str, minimum: int) -> None:
    value = getattr(config, name)
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise ConfigError(f"{name} must be an integer >= {minimum}, not {value!r}")


def _require_number(config: XLMConfig, name: str, maximum: float) -> None:
    value = getattr(config, name)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= maximum:
        raise ConfigError(f"{name} must be a number from 0 to {maximum}, not {value!r}")


def int_keys(name: str, value: object) -> dict[int, Any]:
    """`value` with its keys as integers: JSON has only strings for keys. The values are `check_config`'s to check."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name} must be a mapping, not {value!r}")
    try:
        return {int(key): item for key, item in value.items()}
    except (TypeError, ValueError):
        raise ConfigError(f"{name} must have integers as keys, not {list(value)!r}") from None


def json_value(name: str, value: object) -> object:
    """`value` as `config.json` can hold it: keys as strings, sets and tuples as lists."""
    if isinstance(value, Mapping):
        return {str(key): json_value(name, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(name, item) for item in value]
    if isinstance(value, (set, frozenset)):
        return [json_value(name, item) for item in sorted(value)]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise ConfigError(f"{name} holds a {type(value).__name__}, which {name!r} in a JSON file cannot")
