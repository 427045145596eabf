"""What all XLM models share: fresh weights, `from_pretrained`, `save_pretrained`, tied weights."""

import logging
from pathlib import Path
from typing import ClassVar, Literal, Self, overload

import torch
from torch import Tensor, nn

from .checkpoint import read_weights, write_head, write_weights
from .config import XLMConfig
from .errors import CheckpointError, ConfigError
from .layers import SinusoidalEmbedding
from .loading import LoadReport, assign_weights, fit_prefix
from .original import read_original
from .shared_body import BODY_FIELD, body_directory, check_same_body

logger = logging.getLogger(__name__)

LANGUAGE_EMBEDDINGS = "transformer.lang_embeddings.weight"
DEFAULT_SHARD_BYTES = 5 * 1000**3
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16)
}


class PreTrainedXLM(nn.Module):
    """Base of XLMModel and of the models with a head."""

    # Where the XLMModel sits in this model's state dict: "transformer." or, for XLMModel itself, "".
    base_prefix: ClassVar[str]
    # Parameter names that a checkpoint need not hold and that are not written: they are tied to another.
    tied_names: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: XLMConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the weights."""
        return next(self.parameters()).dtype

    # -- weights -------------------------------------------------------------------------------------------------

    def initialise(self) -> None:
        """Draw fresh weights for this model's own modules; an XLMModel inside has drawn its own.

        Embeddings N(0, embed_init_std^2) with the padding row zero; linear layers N(0, init_std^2) with zero
        biases; layer norms 1 and 0; sinusoidal positions their table.
        """
        for child in self.children():
            if not isinstance(child, PreTrainedXLM):
                for module in child.modules():
                    for name, parameter in module.named_parameters(recurse=False):
                        self._initialise_parameter(module, name, parameter)
        self.tie_weights()

    def _initialise_parameter(self, module: nn.Module, name: str, parameter: Tensor) -> None:
        with torch.no_grad():
            if isinstance(module, SinusoidalEmbedding):
                module.fill()
            elif isinstance(module, nn.Embedding):
                parameter.normal_(0.0, self.config.embed_init_std)
                if module.padding_idx is not None:
                    parameter[module.padding_idx].zero_()
            elif isinstance(module, nn.LayerNorm):
                parameter.fill_(1.0 if name == "weight" else 0.0)
            elif name == "bias":
                parameter.zero_()
            else:
                parameter.normal_(0.0, self.config.init_std)

    def tie_weights(self) -> None:
        """Make parameters that are one and the same share their storage. Only the language-model head has any."""

    def _is_tied(self) -> bool:
        return False

    # -- loading -------------------------------------------------------------------------------------------------

    @overload
    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        config: XLMConfig | None = ...,
        dtype: torch.dtype | str | None = ...,
        device: torch.device | str = ...,
        ignore_mismatched_sizes: bool = ...,
        output_loading_info: Literal[False] = ...,
        **overrides: object,
    ) -> Self: ...
    @overload
    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        config: XLMConfig | None = ...,
        dtype: torch.dtype | str | None = ...,
        device: torch.device | str = ...,
        ignore_mismatched_sizes: bool = ...,
        output_loading_info: Literal[True],
        **overrides: object,
    ) -> tuple[Self, LoadReport]: ...
    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        config: XLMConfig | None = None,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str = "cpu",
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        **overrides: object,
    ) -> Self | tuple[Self, LoadReport]:
        """Load a checkpoint directory, or an original facebookresearch `.pth` file. Returns a model in eval mode.

        Weights of a bare model fit a model with a head (the head is drawn afresh, and a warning logged) and the
        other way round.

        Args:
            path: the directory with `config.json` and the weights (see `checkpoint`), or one weight file.
            config: use this configuration instead of the one at `path`.
            dtype: of the weights: a torch dtype or its name; "auto" keeps what the file has; default float32.
            device: where the weights go.
            ignore_mismatched_sizes: draw parameters of another shape afresh instead of failing.
            output_loading_info: return (model, LoadReport).
            overrides: configuration fields to change, such as `num_labels=3` or `causal=True`.

        Raises CheckpointError for files that are missing, damaged or do not fit; ConfigError for a configuration
        no model can have; TypeError for an override that is no field.
        """
        source = Path(path)
        if not source.exists():
            raise CheckpointError(f"{source} does not exist; checkpoints are local directories, not names on a hub")
        if source.suffix == ".pth" and source.is_file():
            original = read_original(source)
            config, tensors = config or original.config, original.weights
        else:
            config = config or XLMConfig.from_pretrained(source if source.is_dir() else source.parent)
            tensors = read_weights(source)
            if body := body_directory(source):
                check_same_body(config, XLMConfig.from_pretrained(body))
                if not config.states_languages:
                    tensors.pop(LANGUAGE_EMBEDDINGS, None)
        config = _overridden(config, overrides)
        with torch.device("meta"):
            model = cls(config)
        report = model._load(
            tensors, resolved_dtype(dtype, config.dtype, tensors), torch.device(device), ignore_mismatched_sizes, source
        )
        model.eval()
        return (model, report) if output_loading_info else model

    def _load(
        self,
        tensors: dict[str, Tensor],
        dtype: torch.dtype,
        device: torch.device,
        ignore_mismatched: bool,
        source: Path,
    ) -> LoadReport:
        tied = self.tied_names if self._is_tied() else ()
        tensors = {name: value for name, value in fit_prefix(tensors, self.base_prefix).items() if name not in tied}
        try:
            report = assign_weights(self, tensors, dtype, device, ignore_mismatched)
        except CheckpointError as error:
            raise CheckpointError(f"{source}: {error}") from error
        report.missing = [name for name in report.missing if name not in tied]
        self._draw(report.missing + report.mismatched, dtype, device)
        self.tie_weights()
        if report.missing or report.mismatched:
            logger.warning("%s: initialised afresh: %s", source, ", ".join(report.missing + report.mismatched))
        if report.unexpected:
            logger.warning("%s: not used by %s: %s", source, type(self).__name__, ", ".join(report.unexpected))
        return report

    def _draw(self, names: list[str], dtype: torch.dtype, device: torch.device) -> None:
        """Give the named parameters storage and fresh values."""
        for name in names:
            owner, _, attribute = name.rpartition(".")
            module = self.get_submodule(owner)
            old = module.get_parameter(attribute)
            fresh = nn.Parameter(torch.empty(old.shape, dtype=dtype, device=device), requires_grad=old.requires_grad)
            setattr(module, attribute, fresh)
            self._initialise_parameter(module, attribute, fresh)

    # -- saving --------------------------------------------------------------------------------------------------

    def save_pretrained(
        self, directory: str | Path, *, safe_serialization: bool = True, max_shard_bytes: int = DEFAULT_SHARD_BYTES
    ) -> None:
        """Write `config.json` and the weights into `directory`, as transformers reads them.

        Safetensors files leave out a tied head, which readers restore; pickles (`safe_serialization=False`) hold it.
        """
        target = Path(directory)
        self._save_config(target)
        left_out = self.tied_names if safe_serialization and self._is_tied() else ()
        tensors = {name: value for name, value in self.state_dict().items() if name not in left_out}
        write_weights(target, tensors, max_shard_bytes, safe=safe_serialization)

    def save_head(self, directory: str | Path, body: str | Path) -> None:
        """Write `config.json` and the weights of the head alone into `directory`, from where it is read together with
        the weights in `body`, a model directory beside it; see `shared_body`. Raises ValueError if it lies elsewhere.
        """
        target = Path(directory)
        if Path(body).resolve().parent != target.resolve().parent:
            raise ValueError(f"a head lies beside its body: {target} is not beside {body}")
        self._save_config(target, Path(body).resolve().name)
        write_head(target, self.state_dict())

    def _save_config(self, directory: Path, body: str | None = None) -> None:
        self.config.architectures = [type(self).__name__]
        self.config.__dict__.pop(BODY_FIELD, None)
        self.config.update({"dtype": self.dtype} | ({BODY_FIELD: body} if body else {}))
        self.config.save_pretrained(directory)


def _overridden(config: XLMConfig, overrides: dict[str, object]) -> XLMConfig:
    for key in overrides:
        if not config.has_field(key):
            raise TypeError(f"{key!r} is neither an argument of from_pretrained nor a configuration field")
    return XLMConfig.from_dict(config.to_dict(), **overrides) if overrides else config


def resolved_dtype(wanted: torch.dtype | str | None, stated: str | None, tensors: dict[str, Tensor]) -> torch.dtype:
    """The floating-point type to load weights in: what is wanted; with "auto" what the configuration states, else what
    the file has; float32 by default."""
    if wanted is None:
        return torch.float32
    if isinstance(wanted, torch.dtype):
        return wanted
    if wanted == "auto":
        stored = next((tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()), torch.float32)
        wanted = stated or str(stored).removeprefix("torch.")
    if wanted not in _DTYPES:
        raise ConfigError(f"dtype must be one of {', '.join(_DTYPES)} or auto, not {wanted!r}")
    return _DTYPES[wanted]
