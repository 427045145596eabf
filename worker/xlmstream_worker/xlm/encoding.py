"""What a tokenizer call returns: named lists or tensors, ready for a model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

TENSOR_TYPES = ("pt", "np")


class BatchEncoding(dict[str, Any]):
    """`input_ids`, `token_type_ids`, `attention_mask`, ...: a dictionary whose items are attributes too.

    Values are lists of T integers (one sequence), lists of B such lists, or tensors of shape (B, T), int64.
    A slice of it is a dictionary of the slices of its values.
    """

    @property
    def data(self) -> dict[str, Any]:
        """The plain dictionary."""
        return dict(self)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"this encoding has no {name!r}; it has {', '.join(self)}") from None

    def __getitem__(self, key: str | slice) -> Any:
        if isinstance(key, slice):
            return {name: value[key] for name, value in self.items()}
        return super().__getitem__(key)

    def convert_to_tensors(self, tensor_type: str, prepend_batch_axis: bool = False) -> "BatchEncoding":
        """Turn the lists into tensors, in place: "pt" for PyTorch, "np" for NumPy.

        Raises:
            ValueError: another type, or the rows of a value differ in length.
        """
        if tensor_type == "pt":
            import torch

            as_tensor: Any = torch.tensor
        elif tensor_type == "np":
            import numpy

            as_tensor = numpy.array
        else:
            raise ValueError(f"return_tensors must be one of {TENSOR_TYPES}, got {tensor_type!r}")
        for name, value in self.items():
            if hasattr(value, "shape"):
                continue
            try:
                self[name] = as_tensor([value] if prepend_batch_axis else value)
            except ValueError as error:
                raise ValueError(
                    f"the rows of {name} differ in length: ask for padding=True (and truncation=True)"
                ) from error
        return self

    def to(self, device: "str | int | torch.device", *, non_blocking: bool = False) -> "BatchEncoding":
        """Move the tensors to a device, in place; lists stay."""
        for name, value in self.items():
            if hasattr(value, "to"):
                self[name] = value.to(device=device, non_blocking=non_blocking)
        return self


def to_list(values: Any) -> Any:
    """Integers or (nested) lists of them from tensors, arrays or what is one already."""
    if hasattr(values, "tolist"):
        return values.tolist()
    if isinstance(values, Sequence):
        return [to_list(value) for value in values] if any(hasattr(v, "tolist") for v in values) else values
    return values
