"""Helpers of the XLM library's tests: tiny oracle models, random inputs, and comparison of whole outputs.

The oracle is transformers 4.56.2, imported by tests and nowhere in the library.
"""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from xlmstream_worker.xlm.loading import LoadReport

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-6}
SIZES = {"vocab_size": 61, "emb_dim": 16, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 24}


def oracle_model(name: str, dtype: torch.dtype = torch.float32, **fields: object) -> torch.nn.Module:
    """A random oracle model in eval mode whose weights, biases and norms are all far from their initial values."""
    torch.manual_seed(0)
    model = getattr(transformers, name)(transformers.XLMConfig(**{**SIZES, **fields})).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def random_inputs(rows: int = 3, columns: int = 9, pads: int = 3) -> dict[str, torch.Tensor]:
    """Random ids; the last `pads` columns of the middle row are padding."""
    torch.manual_seed(1)
    ids = torch.randint(5, SIZES["vocab_size"], (rows, columns))
    ids[rows // 2, columns - pads :] = 2
    return {"input_ids": ids}


def assert_outputs_equal(actual: object, expected: object, dtype: torch.dtype = torch.float32) -> None:
    """The same fields in the same order, each equal to the tolerance of `dtype`."""
    if isinstance(expected, tuple):
        assert isinstance(actual, tuple)
        actual, expected = dict(enumerate(actual)), dict(enumerate(expected))
    assert list(actual.keys()) == list(expected.keys())
    for name in expected:
        ours, theirs = actual[name], expected[name]
        if torch.is_tensor(theirs):
            ours, theirs = (ours,), (theirs,)
        assert len(ours) == len(theirs), name
        for place, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            difference = torch.testing.assert_close
            difference(one, other, rtol=0, atol=TOLERANCE[dtype], msg=lambda text, at=(name, place): f"{at}: {text}")


@pytest.fixture
def oracle(tmp_path: Path) -> SimpleNamespace:
    """`oracle.pair(OurClass, dtype, **config)` is (ours, theirs): an oracle model, and ours loaded from its files."""

    def pair(
        cls: type, dtype: torch.dtype = torch.float32, **fields: object
    ) -> tuple[torch.nn.Module, torch.nn.Module]:
        theirs = oracle_model(cls.__name__, dtype, **fields)
        theirs.save_pretrained(tmp_path / "oracle")
        ours, report = cls.from_pretrained(tmp_path / "oracle", dtype=dtype, output_loading_info=True)
        assert report == LoadReport()
        return ours, theirs

    return SimpleNamespace(
        pair=pair, model=oracle_model, inputs=random_inputs, assert_equal=assert_outputs_equal, sizes=dict(SIZES)
    )
