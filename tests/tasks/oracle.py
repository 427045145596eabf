"""transformers' own model, tokenizer and pipelines on the checkpoints of the zoo."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import transformers


def pipeline_of(task: str, path: Path, **settings: Any) -> Any:
    """A pipeline of transformers on a local directory."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its dependencies, about themselves
        tokenizer = transformers.XLMTokenizer.from_pretrained(path)
        architecture = transformers.XLMConfig.from_pretrained(path).architectures[0]
        model = getattr(transformers, architecture).from_pretrained(path).eval()
        return transformers.pipeline(task, model=model, tokenizer=tokenizer, device="cpu", **settings)
