"""Optimizers and the learning-rate schedule.

The matrices inside the layers are trained by Muon (orthogonalised momentum; Jordan 2024), embeddings, biases and norms
by AdamW. Muon's updates are scaled to the size of AdamW's, so one learning rate serves both.
"""

import math

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from .recipe import Schedule


def learning_rate(schedule: Schedule, step: int) -> float:
    """Learning rate of optimizer step `step`, counted from 0."""
    if step < schedule.warmup_steps:
        return schedule.peak_lr * (step + 1) / schedule.warmup_steps
    decay_starts = schedule.warmup_steps + schedule.hold * (schedule.steps - schedule.warmup_steps)
    if step < decay_starts:
        return schedule.peak_lr
    progress = (step - decay_starts) / (schedule.steps - decay_starts)
    return schedule.peak_lr * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def build_optimizers(model: nn.Module, schedule: Schedule) -> dict[str, Optimizer]:
    """Optimizers by name; each parameter belongs to one of them. Weight decay acts on matrices only."""
    matrices, tables, vectors = _groups(model)
    decay = schedule.weight_decay
    return {
        "muon": Muon(matrices, lr=schedule.peak_lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
        "adamw": AdamW(
            [{"params": tables, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=schedule.peak_lr,
            betas=(0.9, 0.98),
            eps=1e-8,
        ),
    }


def _groups(model: nn.Module) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    matrices: list[Tensor] = []
    tables: list[Tensor] = []
    vectors: list[Tensor] = []
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            vectors.append(parameter)
        elif any(f".{kind}." in f".{name}" for kind in ("attentions", "encoder_attn", "ffns")):
            matrices.append(parameter)
        else:
            tables.append(parameter)
    return matrices, tables, vectors


def set_learning_rate(optimizers: dict[str, Optimizer], value: float) -> None:
    """Use `value` in the next step."""
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = value


def clip_gradients(model: nn.Module, max_norm: float) -> float:
    """Scale all gradients together to at most `max_norm`; returns their norm before."""
    return float(torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm))
