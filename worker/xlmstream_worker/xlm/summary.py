"""One vector for a whole sequence: pick or average hidden states, project, activate."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import XLMConfig
from .errors import ConfigError


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "leaky_relu": F.leaky_relu,
    "mish": F.mish,
    "relu": F.relu,
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}


class SequenceSummary(nn.Module):
    """Hidden states (B, T, E) to (B, num_labels), or to (B, E) without a projection to labels.

    `config.summary_type`: "first" or "last" position, "mean" of all T, or "cls_index". "last" and "mean" know
    nothing of padding: the last column may be padding, and padded positions count in the mean as the zeros they
    are. A batch that must not depend on its padding is summarised row by row. Steps: pick, dropout
    (`summary_first_dropout`), projection (`summary_use_proj`), `summary_activation`, dropout (`summary_last_dropout`).

    Raises NotImplementedError for summary_type "attn", which never was defined; ConfigError for an unknown activation.
    """

    def __init__(self, config: XLMConfig) -> None:
        super().__init__()
        if config.summary_type == "attn":
            raise NotImplementedError('summary_type "attn" is not defined for XLM')
        if config.summary_activation and config.summary_activation not in ACTIVATIONS:
            raise ConfigError(
                f"summary_activation must be one of {', '.join(ACTIVATIONS)}, not {config.summary_activation!r}"
            )
        self.summary_type = config.summary_type
        self.activation = ACTIVATIONS[config.summary_activation] if config.summary_activation else None
        self.first_dropout = config.summary_first_dropout
        self.last_dropout = float(getattr(config, "summary_last_dropout", None) or 0.0)
        self.summary: nn.Linear | None = None
        if config.summary_use_proj:
            to_labels = config.summary_proj_to_labels and config.num_labels > 0
            self.summary = nn.Linear(config.emb_dim, config.num_labels if to_labels else config.emb_dim)

    def forward(self, states: Tensor, cls_index: Tensor | None = None) -> Tensor:
        """Summarise; `cls_index` int64 (B,) is read by summary_type "cls_index", default the last position."""
        x = F.dropout(self._pick(states, cls_index), self.first_dropout, self.training)
        if self.summary is not None:
            x = self.summary(x)
        if self.activation is not None:
            x = self.activation(x)
        return F.dropout(x, self.last_dropout, self.training)

    def _pick(self, states: Tensor, cls_index: Tensor | None) -> Tensor:
        if self.summary_type == "mean":
            return states.mean(dim=1)
        if self.summary_type == "first":
            return states[:, 0]
        if self.summary_type == "cls_index" and cls_index is not None:
            return states[torch.arange(states.shape[0], device=states.device), cls_index]
        return states[:, -1]
