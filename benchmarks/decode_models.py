"""The models that the decode benchmarks run, and transformers' side of them as a process of its own.

`python -m benchmarks.decode_models SIZE KIND` (KIND: causal or masked) reads one JSON request per line, {"prompts":
[[...]], "new": N}, generates with whatever version of transformers its interpreter has, and answers {"version", "ids",
"cpu_s", "wall_s"}.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch reads it

import json
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from xlmstream_worker.xlm import XLMConfig, XLMWithLMHeadModel


@dataclass(frozen=True)
class Size:
    layers: int
    width: int
    heads: int
    vocabulary: int

    @property
    def weights(self) -> int:
        """Those a token is multiplied with."""
        return 12 * self.layers * self.width**2 + self.vocabulary * self.width


SIZES = {"S": Size(4, 256, 4, 30_000), "M": Size(6, 1024, 8, 64_139)}


def build(name: str, kind: str = "causal", seed: int = 0) -> XLMWithLMHeadModel:
    """Random weights, wide enough apart that the best token is seldom a matter of rounding."""
    size = SIZES[name]
    config = XLMConfig(
        vocab_size=size.vocabulary, emb_dim=size.width, n_layers=size.layers, n_heads=size.heads,
        causal=kind == "causal", mask_token_id=5, init_std=0.1, embed_init_std=0.1,
    )  # fmt: skip
    torch.manual_seed(seed)
    return XLMWithLMHeadModel(config).eval()


# Nats of the next-token distributions of the demo model xlm-clm-demo on text of its own: the mean over 16 texts of 100
# tokens drawn at temperature 1. A tenth of them have less than 1.5, a tenth more than 5.2.
TRAINED_ENTROPY = 3.5


def spread_as_trained(model: XLMWithLMHeadModel, prompts: Sequence[Sequence[int]]) -> float:
    """What to multiply the scores of random weights with, to give them the entropy of a trained model after prompts of
    equal length, on average."""
    with torch.inference_mode():
        scores = model(input_ids=torch.tensor(prompts), return_dict=True).logits[:, -1]
        low, high = 0.01, 100.0
        while high / low > 1.001:
            factor = (low * high) ** 0.5
            entropy = float(torch.distributions.Categorical(logits=factor * scores).entropy().mean())
            low, high = (factor, high) if entropy > TRAINED_ENTROPY else (low, factor)
    return low


def multiply_scores(model: XLMWithLMHeadModel, factor: float) -> None:
    """In place, also for an engine that shares the weights: the head of random weights has no bias."""
    norm = model.transformer.layer_norm2[-1]
    with torch.no_grad():
        norm.weight.mul_(factor)
        norm.bias.mul_(factor)


def main() -> None:
    import transformers

    torch.set_num_threads(1)
    ours = build(*sys.argv[1:3])
    fields = {name: value for name, value in ours.config.to_dict().items() if name != "architectures"}
    theirs = transformers.XLMWithLMHeadModel(transformers.XLMConfig(**fields)).eval()
    theirs.load_state_dict(ours.state_dict())
    del ours
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        request = json.loads(line)
        cpu, wall = time.process_time(), time.perf_counter()
        with torch.inference_mode():
            ids = theirs.generate(
                torch.tensor(request["prompts"]), max_new_tokens=request["new"], do_sample=False, pad_token_id=2
            )
        answer = {
            "version": transformers.__version__,
            "ids": ids[:, len(request["prompts"][0]) :].tolist(),
            "cpu_s": time.process_time() - cpu,
            "wall_s": time.perf_counter() - wall,
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
