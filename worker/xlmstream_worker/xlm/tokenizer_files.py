"""A tokenizer's files: vocab.json, merges.txt, tokenizer_config.json and what older versions wrote beside them."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from xlmstream_worker.xlm.shared_body import body_directory
from xlmstream_worker.xlm.special_tokens import AddedToken
from xlmstream_worker.xlm.vocabulary import Vocabulary

VOCAB_FILE = "vocab.json"
MERGES_FILE = "merges.txt"
CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
ADDED_TOKENS_FILE = "added_tokens.json"

# A merges file's lines by rank. A line has two symbols; others are kept, so that saving gives them back.
Merges = dict[tuple[str, ...], int]


def read_vocabulary(path: str | Path) -> dict[str, int]:
    """Token to id from a vocab.json.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no JSON object of ids.
    """
    content = _read_json(Path(path))
    if not all(type(index) is int and index >= 0 for index in content.values()):
        raise ValueError(f"{path}: not every token has an id (an integer of at least 0)")
    return content


def read_merges(path: str | Path) -> Merges:
    """Merges by rank, from lines `left right [frequency]`.

    The rank is the line number, of the last line where a pair occurs twice; what follows the last line feed is
    dropped. There is no header: a `#version` line is a merge that never fires.
    """
    lines = Path(path).read_text(encoding="utf-8").split("\n")[:-1]
    return {tuple(line.split()[:2]): rank for rank, line in enumerate(lines)}


def write_vocabulary(directory: Path, prefix: str, encoder: dict[str, int], merges: Merges) -> tuple[str, str]:
    """Write vocab.json and merges.txt (without frequencies) and return their paths."""
    vocab_path, merges_path = directory / (prefix + VOCAB_FILE), directory / (prefix + MERGES_FILE)
    _write_json(vocab_path, encoder)
    lines = (" ".join(symbols) + "\n" for symbols, _ in sorted(merges.items(), key=lambda item: item[1]))
    merges_path.write_text("".join(lines), encoding="utf-8")
    return str(vocab_path), str(merges_path)


def read_settings(directory: str | Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor arguments saved in a directory, with `overrides` in place of what was saved. A head that shares a
    body has its vocabulary.

    Raises:
        FileNotFoundError: there is no such directory, or it lacks vocab.json or merges.txt.
        ValueError: a file is malformed.
    """
    root = Path(directory)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a directory (checkpoints load from local directories)")
    root = body_directory(root) or root
    for name in (VOCAB_FILE, MERGES_FILE):
        if not (root / name).is_file():
            raise FileNotFoundError(f"{root} has no {name}")

    settings = _read_json(root / CONFIG_FILE) if (root / CONFIG_FILE).is_file() else {}
    for key in ("tokenizer_class", "tokenizer_file", "init_inputs", "name_or_path"):
        settings.pop(key, None)
    settings = _with_added_tokens(settings) | dict(overrides)
    if "added_tokens_decoder" in settings:
        saved = settings["added_tokens_decoder"].items()
        added = {int(index): _added_token(token) for index, token in saved}
    else:
        added = _read_older_files(root, settings, overrides)
    settings["added_tokens_decoder"] = added
    by_content = {str(token): token for token in added.values()}
    for role in Vocabulary.ROLES:
        if isinstance(settings.get(role), str):
            settings[role] = by_content.get(settings[role], settings[role])
    return {"vocab_file": root / VOCAB_FILE, "merges_file": root / MERGES_FILE, **settings}


def _read_older_files(root: Path, settings: dict[str, Any], overrides: Mapping[str, Any]) -> dict[int, AddedToken]:
    """Before `added_tokens_decoder`: special_tokens_map.json (into `settings`) and added_tokens.json."""
    if (root / SPECIAL_TOKENS_FILE).is_file():
        for key, value in _read_json(root / SPECIAL_TOKENS_FILE).items():
            if overrides.get(key):
                continue
            if isinstance(value, list):
                former = settings.get(key) or []
                tokens = [_special_token(token) for token in value]
                settings[key] = [*former, *(token for token in tokens if token not in former)]
            else:
                settings[key] = _special_token(value)
    if not (root / ADDED_TOKENS_FILE).is_file():
        return {}
    special = {str(settings[role]) for role in Vocabulary.ROLES if settings.get(role)}
    special.update(map(str, settings.get("additional_special_tokens") or ()))
    added = _read_json(root / ADDED_TOKENS_FILE)
    return {index: AddedToken(token, special=token in special) for token, index in added.items()}


def write_settings(
    directory: Path, prefix: str, vocabulary: Vocabulary, settings: Mapping[str, Any]
) -> tuple[str, ...]:
    """Write tokenizer_config.json, special_tokens_map.json and, where needed, added_tokens.json."""
    config = {key: _as_json(value, typed=True) for key, value in settings.items()}
    config |= vocabulary.special_tokens_map
    config["added_tokens_decoder"] = {
        str(index): asdict(token) for index, token in vocabulary.added_tokens_decoder.items()
    }
    config["tokenizer_class"] = "XLMTokenizer"
    config_path = directory / (prefix + CONFIG_FILE)
    _write_json(config_path, config)

    special_path = directory / (prefix + SPECIAL_TOKENS_FILE)
    special_tokens = vocabulary.special_tokens_map_extended.items()
    _write_json(special_path, {key: _as_json(value, typed=False) for key, value in special_tokens})

    beyond = {
        token: index for token, index in vocabulary.added_tokens_encoder.items() if index >= vocabulary.vocab_size
    }
    added_path = directory / (prefix + ADDED_TOKENS_FILE)
    if beyond:
        _write_json(added_path, beyond)
    return str(config_path), str(special_path), *([str(added_path)] if beyond else ())


def _with_added_tokens(value: Any) -> Any:
    """JSON with every object marked as an added token turned into one."""
    if isinstance(value, list):
        return [_with_added_tokens(item) for item in value]
    if isinstance(value, dict):
        if value.get("__type") == "AddedToken":
            return _added_token({key: item for key, item in value.items() if key != "__type"})
        return {key: _with_added_tokens(item) for key, item in value.items()}
    return value


def _as_json(value: Any, typed: bool) -> Any:
    """The reverse; `typed` marks the objects."""
    if isinstance(value, AddedToken):
        token = asdict(value)
        if typed:
            return token | {"__type": "AddedToken"}
        del token["special"]
        return token
    if isinstance(value, Mapping):
        return {str(key): _as_json(item, typed) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(item, typed) for item in value]
    return value


def _added_token(value: Any) -> AddedToken:
    if isinstance(value, AddedToken):
        return value
    if not isinstance(value, dict) or "content" not in value:
        raise ValueError(f"{value!r} is no added token")
    return AddedToken(**value)


def _special_token(value: Any) -> str | AddedToken:
    return _added_token({**value, "special": True}) if isinstance(value, dict) else str(value)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # JSON or UTF-8
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object")
    return content


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
