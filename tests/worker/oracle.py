"""The same model directory in transformers: what its tokenizer and its `generate` give for one text."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from worker.toy import make_model
from xlmstream_worker.xlm import XLMWithLMHeadModel

PAD, EOS = 2, 1


def make_directory(directory: Path, *, causal: bool, seed: int = 0) -> Path:
    """A toy that often ends its texts; the causal one appends its `<special1>` too, as its configuration says."""
    make_model(directory, seed, input_format="original" if causal else "huggingface")
    model = XLMWithLMHeadModel.from_pretrained(directory)
    with torch.no_grad():
        model.pred_layer.proj.bias[EOS] += 25.0
    model.save_pretrained(directory)
    config = json.loads((directory / "config.json").read_text())
    changes = {"causal": True, "mask_token_id": 5} if causal else {"causal": False}
    (directory / "config.json").write_text(json.dumps(config | changes))
    return directory


class Oracle:
    """Use it with pytest only: it skips the test where transformers is not installed."""

    def __init__(self, directory: Path) -> None:
        transformers = pytest.importorskip("transformers", reason="the oracle of this test is not installed")
        self._tokenizer = transformers.XLMTokenizer.from_pretrained(directory)
        self._model = transformers.XLMWithLMHeadModel.from_pretrained(directory).eval()
        self._model.config.mask_token_id = 5  # what the service takes for a masked model whose file does not say

    def prompt(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text)["input_ids"]
        return ids

    def ids(self, prompt: list[int], language_id: int = 0, **options: object) -> list[list[int]]:
        """Generated ids of each returned sequence, the end of sequence included, the fill not."""
        self._model.config.lang_id = language_id
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sequences = self._model.generate(
                torch.tensor([prompt]), do_sample=False, pad_token_id=PAD, eos_token_id=EOS, **options
            )
        results = []
        for ids in sequences[:, len(prompt) :].tolist():
            end = ids.index(EOS) + 1 if EOS in ids else len(ids)
            results.append(ids[:end])
        return results
