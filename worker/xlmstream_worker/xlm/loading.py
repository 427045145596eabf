"""Putting the tensors of a checkpoint into a model: names, prefixes, shapes, dtypes, and what is left over."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .checkpoint import BASE_PREFIX
from .errors import CheckpointError

# In files of some versions though no parameter: the positions 0, 1, 2, ...
_NO_PARAMETER = re.compile(r"(^|\.)position_ids$")


@dataclass
class LoadReport:
    """What happened to the names of a checkpoint.

    `missing`: parameters the file does not hold, freshly initialised. `unexpected`: names the model has no use for.
    `mismatched`: parameters of another shape in the file, freshly initialised because the caller allowed it.
    """

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)


def fit_prefix(tensors: Mapping[str, Tensor], base_prefix: str) -> dict[str, Tensor]:
    """Rename a checkpoint of the bare model for one with a head, or the reverse.

    `base_prefix` is where the receiving model keeps its XLMModel: "transformer." or "" .
    """
    has_prefix = any(name.startswith(BASE_PREFIX) for name in tensors)
    if has_prefix and not base_prefix:
        return {name.removeprefix(BASE_PREFIX): tensor for name, tensor in tensors.items()}
    if base_prefix and not has_prefix:
        return {base_prefix + name: tensor for name, tensor in tensors.items()}
    return dict(tensors)


def assign_weights(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype,
    device: torch.device,
    ignore_mismatched_sizes: bool,
) -> LoadReport:
    """Make the tensors the parameters of `model`, which may be on the meta device; the model shares no storage with
    a parameter that stays missing. Parameters not found are listed, not touched.

    Raises CheckpointError for a shape that differs (unless allowed), and for a tensor that is no floating-point one.
    """
    report = LoadReport()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    fitting: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        tensor = tensors.get(name)
        if tensor is None:
            report.missing.append(name)
        elif tensor.shape != parameter.shape:
            report.mismatched.append(name)
        elif not tensor.is_floating_point():
            raise CheckpointError(f"{name} is stored as {tensor.dtype}, not as floating-point numbers")
        else:
            fitting[name] = tensor
    if report.mismatched and not ignore_mismatched_sizes:
        differing = "; ".join(
            f"{name} is {tuple(tensors[name].shape)} in the file and {tuple(parameters[name].shape)} in the model"
            for name in report.mismatched
        )
        raise CheckpointError(f"shapes differ (ignore_mismatched_sizes=True initialises them anew): {differing}")
    report.unexpected = [name for name in tensors if name not in parameters and not _NO_PARAMETER.search(name)]
    for name, tensor in fitting.items():
        owner, _, attribute = name.rpartition(".")
        frozen = not parameters[name].requires_grad
        # A copy: parameters must be writable and not share memory with a mapped file or with each other.
        value = tensor.to(device=device, dtype=dtype, copy=True)
        setattr(model.get_submodule(owner), attribute, nn.Parameter(value, requires_grad=not frozen))
    return report
