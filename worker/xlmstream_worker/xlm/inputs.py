"""From the arguments of a call to what the layers need: checked shapes, masks, positions, and with a cache the new
columns only. No parameters and no arithmetic on hidden states here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .config import XLMConfig
from .kv_cache import KVCache
from .layers import Visibility


@dataclass(frozen=True)
class ModelInputs:
    """One call, T being its new positions. Exactly what XLMModel reads; `embeds` wins over `ids`.

    `token_mask` (B, T) multiplies hidden states (0 at padding); None when nothing is padding.
    """

    ids: Tensor | None
    embeds: Tensor | None
    langs: Tensor | None
    token_type_ids: Tensor | None
    position_ids: Tensor
    token_mask: Tensor | None
    visibility: Visibility


def prepare(
    config: XLMConfig,
    dtype: torch.dtype,
    input_ids: Tensor | None,
    attention_mask: Tensor | None,
    langs: Tensor | None,
    token_type_ids: Tensor | None,
    position_ids: Tensor | None,
    lengths: Tensor | None,
    cache: KVCache | None,
    inputs_embeds: Tensor | None,
    cache_position: Tensor | None,
) -> ModelInputs:
    """Check and complete the arguments of a call to a model of this dtype; see XLMModel.forward for the arguments."""
    main = input_ids if input_ids is not None else inputs_embeds
    if main is None:
        raise ValueError("one of input_ids and inputs_embeds is needed")
    expected_dim = 2 if main is input_ids else 3
    if main.dim() != expected_dim:
        raise ValueError(f"input_ids must be (B, T) and inputs_embeds (B, T, E), not {tuple(main.shape)}")
    B, T = main.shape[:2]
    past = _past_length(config, cache)
    new = _new_columns(T, past, cache_position)
    total = past + new
    if total > config.max_position_embeddings:
        raise ValueError(f"{total} positions exceed max_position_embeddings {config.max_position_embeddings}")

    columns = _Columns(B, past, new)
    if attention_mask is not None:
        token_mask: Tensor | None = columns.newest("attention_mask", attention_mask)
        if lengths is not None:
            _check_lengths(lengths, B, total)
    elif lengths is None and input_ids is None:
        token_mask = None
    else:
        token_mask = _mask_from_lengths(config, input_ids, lengths, B, T, past, new).to(main.device)
    token_mask = _drop_if_all_open(token_mask)

    if position_ids is None:
        positions = torch.arange(past, total, device=main.device).unsqueeze(0)
    else:
        positions = columns.newest("position_ids", position_ids)
    return ModelInputs(
        ids=None if input_ids is None else columns.newest("input_ids", input_ids),
        embeds=None if inputs_embeds is None else columns.newest("inputs_embeds", inputs_embeds),
        langs=None if langs is None else columns.newest("langs", langs),
        token_type_ids=None if token_type_ids is None else columns.newest("token_type_ids", token_type_ids),
        position_ids=positions,
        token_mask=token_mask,
        visibility=_visibility(config, dtype, token_mask, past, new, main.device),
    )


@dataclass(frozen=True)
class _Columns:
    """Cuts arguments down to the newest columns."""

    rows: int
    past: int
    new: int

    def newest(self, name: str, tensor: Tensor) -> Tensor:
        """The last `new` columns of an argument that covers either the whole sequence or only what is new."""
        allowed = {(self.rows, self.new), (self.rows, self.past + self.new)}
        if tuple(tensor.shape[:2]) not in allowed or tensor.dim() > (3 if name == "inputs_embeds" else 2):
            shapes = " or ".join(str(shape) for shape in sorted(allowed))
            raise ValueError(f"{name} must have shape {shapes}, not {tuple(tensor.shape)}")
        return tensor[:, -self.new :]


def _past_length(config: XLMConfig, cache: KVCache | None) -> int:
    if cache is None:
        return 0
    if not isinstance(cache, KVCache):
        raise TypeError(f"cache must be a KVCache, not a {type(cache).__name__}")
    if not config.causal:
        # What a position of a bidirectional model attends to changes with every new one: nothing can be kept.
        raise ValueError("a cache needs a causal model (config.causal=True)")
    return cache.get_seq_length()


def _new_columns(T: int, past: int, cache_position: Tensor | None) -> int:
    """How many of T given columns are new: the last T - past, or all if cache_position says where they lie."""
    if past and cache_position is not None and cache_position.numel() == T:
        expected = torch.arange(past, past + T, device=cache_position.device)
        if not torch.equal(cache_position.flatten().long(), expected):
            raise ValueError(f"cache_position must continue the {past} positions of the cache")
        return T
    if past >= T:
        raise ValueError(
            f"{T} columns bring nothing new to a cache of {past} positions: pass the whole sequence, or only the "
            "new ids together with their cache_position"
        )
    return T - past


def _mask_from_lengths(
    config: XLMConfig, input_ids: Tensor | None, lengths: Tensor | None, B: int, T: int, past: int, new: int
) -> Tensor:
    """(B, new) bool: position < length. Counted lengths of new-only ids start after the past."""
    if lengths is not None:
        _check_lengths(lengths, B, past + new)
    else:
        assert input_ids is not None
        lengths = (input_ids != config.pad_index).sum(1) + (past + new - T)
    positions = torch.arange(past, past + new, device=lengths.device)
    return positions < lengths[:, None]


def _check_lengths(lengths: Tensor, B: int, total: int) -> None:
    if tuple(lengths.shape) != (B,):
        raise ValueError(f"lengths must have shape {(B,)}, not {tuple(lengths.shape)}")
    if B and int(lengths.max()) > total:
        raise ValueError(f"lengths say {int(lengths.max())}, but there are {total} positions")


def _drop_if_all_open(token_mask: Tensor | None) -> Tensor | None:
    """None instead of a mask of ones, where looking costs nothing: on a GPU it would wait for the device."""
    if token_mask is None or token_mask.device.type != "cpu":
        return token_mask
    return None if bool((token_mask == 1).all()) else token_mask


def _visibility(
    config: XLMConfig, dtype: torch.dtype, token_mask: Tensor | None, past: int, new: int, device: torch.device
) -> Visibility:
    if not config.causal:
        return Visibility() if token_mask is None else Visibility.only((token_mask != 0)[:, None, None, :], dtype)
    if past == 0:
        return Visibility(causal=True)
    if new == 1:
        return Visibility()
    rows = torch.arange(past, past + new, device=device)[:, None]
    return Visibility.only((torch.arange(past + new, device=device) <= rows)[None, None], dtype)


def layer_head_masks(head_mask: Tensor | None, heads: Sequence[int], dtype: torch.dtype) -> list[Tensor | None]:
    """A (1, H, 1, 1) mask for each layer from (H,) for all or (L, H); `heads` is H of each layer."""
    L = len(heads)
    if head_mask is None:
        return [None] * L
    per_layer = head_mask.expand(L, -1) if head_mask.dim() == 1 else head_mask
    if per_layer.dim() != 2 or per_layer.shape[0] != L or any(per_layer.shape[1] != H for H in heads):
        raise ValueError(
            f"head_mask must have shape (H,) or (L, H) with L={L} layers and H={sorted(set(heads))} heads, "
            f"not {tuple(head_mask.shape)}"
        )
    return [mask.to(dtype).view(1, -1, 1, 1) for mask in per_layer]
