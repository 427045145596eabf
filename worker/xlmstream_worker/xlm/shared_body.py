"""Heads that share a body: several fine-tuned models on disk, one body.

    xlm-mlm-demo/         config.json, model.safetensors, vocab.json, merges.txt: a model like any other
    xlm-mlm-demo-tags/    config.json with "body": "xlm-mlm-demo", and head.safetensors: the weights of the head alone

The body's directory lies beside the head's. Configuration and weights of the head are its own; the weights of the body
and the vocabulary are the body's. Imports no torch: processes that only tokenise read this too.
"""

import json
from pathlib import Path

from .config import CONFIG_FILE, XLMConfig
from .errors import CheckpointError, ConfigError

HEAD_FILE = "head.safetensors"
BODY_FIELD = "body"
# In these a head may differ from its body: what its own layers do, and that it may be told no language.
_OF_THE_BODY = (
    "vocab_size",
    "emb_dim",
    "n_layers",
    "n_heads",
    "gelu_activation",
    "sinusoidal_embeddings",
    "causal",
    "is_encoder",
    "max_position_embeddings",
    "layer_norm_eps",
    "bos_index",
    "eos_index",
    "pad_index",
    "unk_index",
    "mask_index",
    "pruned_heads",
)


def body_directory(directory: Path) -> Path | None:
    """Where the body of a head lies; None for a directory that holds a whole model.

    Raises CheckpointError if config.json names a body that is not a directory beside this one, or shares one itself.
    """
    if not (directory / HEAD_FILE).is_file():
        return None
    name = _named_body(directory)
    if not isinstance(name, str) or name in ("", "..") or Path(name).name != name:
        raise CheckpointError(
            f"{directory / CONFIG_FILE}: {BODY_FIELD} must name the directory beside this one whose body the head in "
            f"{HEAD_FILE} is for, got {name!r}"
        )
    body = directory.resolve().with_name(name)
    if not (body / CONFIG_FILE).is_file() or (body / HEAD_FILE).is_file():
        raise CheckpointError(f"{directory / CONFIG_FILE}: {BODY_FIELD} {name!r}: {body} holds no whole model")
    return body


def _named_body(directory: Path) -> object:
    try:
        values = json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"cannot read {directory / CONFIG_FILE}: {error}") from error
    return values.get(BODY_FIELD) if isinstance(values, dict) else None


def check_same_body(head: XLMConfig, body: XLMConfig) -> None:
    """Raise ConfigError unless a head of this configuration fits the body of that one."""
    for name in _OF_THE_BODY:
        own, other = getattr(head, name), getattr(body, name)
        if own != other:
            raise ConfigError(f"{name} is {own!r} for the head and {other!r} for the body it shares")
    if head.states_languages and (head.n_langs, head.states_languages) != (body.n_langs, body.states_languages):
        raise ConfigError(f"n_langs is {head.n_langs} for the head and {body.n_langs} for the body it shares")
