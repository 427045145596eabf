"""A masked body that trains with heads on it: one XLMModel, a language-model head, and any number of others.

What it saves is a model directory of the body with its language-model head, and beside it one for each other head,
which holds the head's weights only and names the body (see `xlm.shared_body`).
"""

from pathlib import Path

import torch
from torch import nn

from xlmstream_worker.xlm import XLMConfig, XLMWithLMHeadModel
from xlmstream_worker.xlm.head import XLMModelWithHead


class BodyWithHeads(nn.Module):
    """`lm` owns the body, which is the body of every model of `heads`."""

    def __init__(self, lm: XLMWithLMHeadModel, heads: dict[str, XLMModelWithHead]) -> None:
        super().__init__()
        self.lm = lm
        for head in heads.values():
            head.transformer.adopt(lm.transformer)
        self.heads = nn.ModuleDict(heads)

    @property
    def config(self) -> XLMConfig:
        """That of the body."""
        return self.lm.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.lm.device

    def save_pretrained(self, directory: Path) -> None:
        """Write the body to `directory` and each head to the directory `<name>-<head>` beside it."""
        self.lm.save_pretrained(directory)
        for name, head in self.heads.items():
            assert isinstance(head, XLMModelWithHead)
            head.save_head(head_directory(directory, name), directory)


def head_directory(body: Path, head: str) -> Path:
    """Where a head of the body in the directory `body` lies."""
    return body.with_name(f"{body.name}-{head}")
