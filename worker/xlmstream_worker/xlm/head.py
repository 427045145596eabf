"""What models with a head share: an XLMModel as `transformer` and the methods that act on it."""

from collections.abc import Iterable, Mapping
from typing import ClassVar

from torch import nn

from .config import XLMConfig
from .model import XLMModel
from .pretrained import PreTrainedXLM


class XLMModelWithHead(PreTrainedXLM):
    """Base of the task models. Subclasses add their modules and call `initialise()` last."""

    base_prefix: ClassVar[str] = "transformer."

    def __init__(self, config: XLMConfig) -> None:
        super().__init__(config)
        self.transformer = XLMModel(config)

    def get_input_embeddings(self) -> nn.Embedding:
        """The word embedding table, (V, E)."""
        return self.transformer.embeddings

    def resize_token_embeddings(self, vocab_size: int) -> None:
        """Change the size of the vocabulary; see XLMModel.resize_token_embeddings."""
        self.transformer.resize_token_embeddings(vocab_size)

    def prune_heads(self, heads: Mapping[int, Iterable[int]]) -> None:
        """Remove attention heads for good; see XLMModel.prune_heads."""
        self.transformer.prune_heads(heads)
