"""Checkpoint files: named tensors in, named tensors out. Knows formats and names of files, nothing of models.

Read: `model.safetensors`, `pytorch_model.bin` (plain tensors only: no code in the pickle is run), both also in
shards with an index; a head's weights with those of the body it shares (see `shared_body`). Written: safetensors, in
shards above a size. Every unreadable file is a CheckpointError.
"""

import json
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .errors import CheckpointError
from .shared_body import HEAD_FILE, body_directory

BASE_PREFIX = "transformer."
"""Where a model with a head keeps its body."""
SAFETENSORS_FILE = "model.safetensors"
TORCH_FILE = "pytorch_model.bin"
# In this order: safetensors before pickles, one file before shards.
WEIGHT_FILES = (SAFETENSORS_FILE, f"{SAFETENSORS_FILE}.index.json", TORCH_FILE, f"{TORCH_FILE}.index.json")

# An unpickler that meets damaged bytes fails in whatever the opcode it stumbled on does with them.
UNPICKLING_ERRORS = (
    pickle.PickleError,
    struct.error,
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    OverflowError,
    MemoryError,
)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint directory, or of one weight file, on the CPU in the dtype they are stored in."""
    if path.is_file():
        return _read_file(path)
    if body := body_directory(path):
        return _read_head(path / HEAD_FILE) | _read_body(body)
    for name in WEIGHT_FILES:
        if (path / name).is_file():
            return _read_shards(path / name) if name.endswith(".index.json") else _read_file(path / name)
    raise CheckpointError(f"{path} holds no weights: expected one of {', '.join(WEIGHT_FILES)}")


def _read_head(file: Path) -> dict[str, Tensor]:
    tensors = _read_file(file)
    if of_body := sorted(name for name in tensors if name.startswith(BASE_PREFIX)):
        raise CheckpointError(f"{file} holds weights of a body, which it shares: {', '.join(of_body[:5])}")
    return tensors


def _read_body(directory: Path) -> dict[str, Tensor]:
    """The weights of a model without those of its own head, named as in a model with one."""
    tensors = read_weights(directory)
    if not any(name.startswith(BASE_PREFIX) for name in tensors):
        return {BASE_PREFIX + name: tensor for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in tensors.items() if name.startswith(BASE_PREFIX)}


def _read_shards(index_file: Path) -> dict[str, Tensor]:
    try:
        index = json.loads(index_file.read_text(encoding="utf-8"))
        weight_map = {str(key): str(file) for key, file in index["weight_map"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index_file} is no index of shards: {error!r}") from error
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(weight_map.values())):
        if Path(name).name != name:
            raise CheckpointError(f"{index_file} names a shard outside its directory: {name!r}")
        tensors |= _read_file(index_file.parent / name)
    absent = sorted(set(weight_map) - set(tensors))
    if absent:
        raise CheckpointError(f"{index_file} promises tensors its shards do not hold: {', '.join(absent[:5])}")
    return tensors


def _read_file(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"cannot read {path}: {error}") from error
    content = read_pickle(path)
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path} holds something other than a mapping of names to tensors")
    return {str(key): value for key, value in content.items()}


def read_pickle(path: Path) -> object:
    """The content of a file written by `torch.save`, if it holds only tensors and plain containers."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UNPICKLING_ERRORS as error:
        raise CheckpointError(f"cannot read {path}: {type(error).__name__}: {error}") from error


def write_weights(directory: Path, tensors: Mapping[str, Tensor], shard_bytes: int, safe: bool = True) -> None:
    """Write tensors into `directory`: one file, or shards of at most `shard_bytes` and their index.

    Weights of an earlier save are removed first, so that no reader picks up a stale file.
    """
    base = SAFETENSORS_FILE if safe else TORCH_FILE
    stem, suffix = base.rsplit(".", 1)
    _remove_weights(directory)
    shards = _partition(tensors, shard_bytes)
    if len(shards) == 1:
        _write_file(directory / base, shards[0])
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"{stem}-{number:05d}-of-{len(shards):05d}.{suffix}"
        _write_file(directory / name, shard)
        weight_map |= dict.fromkeys(shard, name)
    index = {"metadata": {"total_size": sum(map(_bytes, tensors.values()))}, "weight_map": weight_map}
    (directory / f"{base}.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def write_head(directory: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write the weights of a head that shares its body, those of the body left out; in place of an earlier save."""
    _remove_weights(directory)
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith(BASE_PREFIX)}
    _write_file(directory / HEAD_FILE, own)


def _remove_weights(directory: Path) -> None:
    shards = (f"{Path(name).stem}-*-of-*{Path(name).suffix}" for name in (SAFETENSORS_FILE, TORCH_FILE))
    for stale in (*WEIGHT_FILES, HEAD_FILE, *shards):
        for file in directory.glob(stale):
            file.unlink()


def _partition(tensors: Mapping[str, Tensor], shard_bytes: int) -> list[dict[str, Tensor]]:
    shards: list[dict[str, Tensor]] = [{}]
    used = 0
    for name, tensor in tensors.items():
        if shards[-1] and used + _bytes(tensor) > shard_bytes:
            shards.append({})
            used = 0
        shards[-1][name] = tensor
        used += _bytes(tensor)
    return shards


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _write_file(path: Path, tensors: Mapping[str, Tensor]) -> None:
    if path.suffix == ".safetensors":
        # The metadata is what other readers of the format ask for.
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
        # save_file lets nobody but the owner read it; a service often runs as somebody else.
        path.chmod(path.parent.stat().st_mode & 0o666)
    else:
        torch.save(dict(tensors), path)
