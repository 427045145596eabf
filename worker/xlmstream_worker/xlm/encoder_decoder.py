"""XLMEncoderDecoder: a translation model, an XLMModel that reads and an XLMDecoder that writes.

Source: Lample & Conneau 2019 (arXiv:1901.07291) section 5; facebookresearch/XLM.
"""

import dataclasses
import logging
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from .beam_search import Hypothesis
from .checkpoint import read_weights, write_weights
from .decoder import XLMDecoder
from .errors import CheckpointError
from .generation import generate
from .loading import assign_weights
from .model import XLMModel
from .original import read_original_translation
from .outputs import TranslationOutput
from .pretrained import DEFAULT_SHARD_BYTES, resolved_dtype
from .translation_config import XLMEncoderDecoderConfig

logger = logging.getLogger(__name__)


class XLMEncoderDecoder(nn.Module):
    """Translates from any of its languages into any other, as the language embeddings of the two sides say.

    Sources are `</s> X </s>` and translations begin with `</s>`, each with its language at every position.
    """

    def __init__(self, encoder: XLMModel, decoder: XLMDecoder) -> None:
        """From two models, trained or fresh. ConfigError if they do not fit together."""
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.config = XLMEncoderDecoderConfig(encoder.config, decoder.config)

    @classmethod
    def from_config(cls, config: XLMEncoderDecoderConfig) -> Self:
        """With fresh weights."""
        return cls(XLMModel(config.encoder), XLMDecoder(config.decoder))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.encoder.device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the weights."""
        return self.encoder.dtype

    def encode(self, input_ids: Tensor, lengths: Tensor | None = None, langs: Tensor | None = None) -> Tensor:
        """States (B, S, E) of sources int64 (B, S) with `lengths` (B,) real tokens; arguments as for XLMModel."""
        states: Tensor = self.encoder(input_ids, lengths=lengths, langs=langs, return_dict=True).last_hidden_state
        return states

    def forward(
        self,
        input_ids: Tensor,
        decoder_input_ids: Tensor,
        lengths: Tensor | None = None,
        langs: Tensor | None = None,
        decoder_lengths: Tensor | None = None,
        decoder_langs: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> TranslationOutput:
        """Scores of the next token at every position of given translations.

        Args:
            input_ids: int64 (B, S), the sources.
            decoder_input_ids: int64 (B, T), the translations, `</s>` first.
            lengths, decoder_lengths: int64 (B,), the real tokens of each; default: those that are not padding.
            langs, decoder_langs: int64 (B, S) and (B, T).
            labels: int64 (B, T), -100 to leave a position out: the next token *at its position*, nothing is shifted.
        """
        if lengths is None:
            lengths = (input_ids != self.encoder.config.pad_index).sum(1)
        source = self.encode(input_ids, lengths, langs)
        x = self.decoder(decoder_input_ids, source, lengths, langs=decoder_langs, lengths=decoder_lengths)
        logits = self.decoder.pred_layer(x)
        loss = None if labels is None else self.decoder.pred_layer.loss(x, logits, labels)
        return TranslationOutput(loss, logits, source)

    def generate(
        self,
        input_ids: Tensor,
        lengths: Tensor | None = None,
        langs: Tensor | None = None,
        target_langs: Tensor | None = None,
        *,
        max_lengths: Tensor | None = None,
        temperature: float | None = None,
        generator: torch.Generator | None = None,
        num_beams: int = 1,
        num_return_sequences: int = 1,
        length_penalty: float = 1.0,
        early_stopping: bool = False,
        use_cache: bool = True,
    ) -> list[list[Hypothesis]]:
        """Translate B sources: `num_return_sequences` translations of each (fewer, if fewer were found), best first.

        Args:
            input_ids, lengths, langs: as for `forward`.
            target_langs: int64 (B,), the language of each translation.
            max_lengths: int64 (B,), limits that count the beginning and the closing `</s>`, from 2 to the decoder's
                positions; default: int(1.5 * length of the source + 10).
            temperature: draw tokens, from scores divided by this; None takes the likeliest.
            generator: source of the draws; default: torch's own.
            num_beams, length_penalty, early_stopping: see BeamSearch; 1 beam is no search but one pass.
            use_cache: compute each position once. Without, all of them at every step, to the same result.

        Raises ValueError, naming the argument, for values out of range.
        """
        if lengths is None:
            lengths = (input_ids != self.encoder.config.pad_index).sum(1)
        return generate(
            self,
            input_ids,
            lengths,
            langs,
            target_langs,
            max_lengths,
            temperature,
            generator,
            num_beams,
            num_return_sequences,
            length_penalty,
            early_stopping,
            use_cache,
        )

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, dtype: torch.dtype | str | None = None, device: torch.device | str = "cpu"
    ) -> Self:
        """Load a checkpoint directory (see `save_pretrained`), or an original facebookresearch `.pth` file of a
        translation model. Returns a model in eval mode.

        Args:
            dtype: of the weights: a torch dtype or its name; "auto" keeps what the file has; default float32.

        Raises CheckpointError for files that are missing, damaged, incomplete or do not fit; ConfigError for a
        configuration no model can have.
        """
        source = Path(path)
        if not source.exists():
            raise CheckpointError(f"{source} does not exist; checkpoints are local directories, not names on a hub")
        if source.suffix == ".pth" and source.is_file():
            original = read_original_translation(source)
            config, tensors = original.config, original.weights
        else:
            config, tensors = XLMEncoderDecoderConfig.from_pretrained(source), read_weights(source)
        with torch.device("meta"):
            model = cls.from_config(config)
        tied = model._tied_names()
        tensors = {name: value for name, value in tensors.items() if name not in tied}
        wanted = resolved_dtype(dtype, config.dtype, tensors)
        try:
            report = assign_weights(model, tensors, wanted, torch.device(device), ignore_mismatched_sizes=False)
        except CheckpointError as error:
            raise CheckpointError(f"{source}: {error}") from error
        if missing := [name for name in report.missing if name not in tied]:
            raise CheckpointError(f"{source} lacks {', '.join(missing)}")
        if report.unexpected:
            logger.warning("%s: not used by %s: %s", source, cls.__name__, ", ".join(report.unexpected))
        model.decoder.tie_weights()
        return model.eval()

    def save_pretrained(self, directory: str | Path, *, max_shard_bytes: int = DEFAULT_SHARD_BYTES) -> None:
        """Write `config.json` (a section for each side) and `model.safetensors` (names from `encoder.` and `decoder.`
        on; without the projection to the vocabulary where it is tied) into `directory`."""
        target = Path(directory)
        dtype = str(self.dtype).removeprefix("torch.")
        dataclasses.replace(self.config, dtype=dtype).save_pretrained(target)
        tied = self._tied_names()
        tensors = {name: value for name, value in self.state_dict().items() if name not in tied}
        write_weights(target, tensors, max_shard_bytes)

    def _tied_names(self) -> tuple[str, ...]:
        return tuple(f"decoder.{name}" for name in self.decoder.tied_names) if self.decoder.is_tied else ()
