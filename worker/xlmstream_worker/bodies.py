"""The bodies in this process: models that share one on disk share it in memory too (see `xlm.shared_body`)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from xlmstream_worker.config import ModelConfig
from xlmstream_worker.readings import core_of
from xlmstream_worker.xlm import XLMConfig, XLMModel
from xlmstream_worker.xlm.head import XLMModelWithHead
from xlmstream_worker.xlm.shared_body import body_directory


class Bodies:
    """What has been loaded so far, of one device."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, str, bool], XLMModel] = {}

    def share(self, directory: Path, dtype: str, network: XLMModel | XLMModelWithHead) -> None:
        """Give a model that was loaded from `directory` the body that others have, or its own to those to come."""
        own, config = core_of(network), network.config
        assert isinstance(config, XLMConfig)
        body = self._known.setdefault(((body_directory(directory) or directory).resolve(), dtype, config.causal), own)
        if body is not own and isinstance(network, XLMModelWithHead) and body_directory(directory):
            network.transformer.adopt(body)


def bodies_first(models: Iterable[ModelConfig]) -> list[ModelConfig]:
    """In an order in which what shares a body comes after the model that is that body: a decoder takes the weights
    before the layers are laid out for encoding."""
    return sorted(models, key=lambda model: body_directory(model.path) is not None)
