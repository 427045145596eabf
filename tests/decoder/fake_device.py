"""Engines on a device that cannot be waited for, as there is none: `python -m decoder.fake_device`.

Tensors have shapes and devices but no content. An operation that mixes devices is an error, as on a GPU, and so is one
whose result or shape must be known on the host. What the host reads are zeros. A process of its own, since torch knows
the device from then on. For each scenario it prints how often its median steady step starts work on the device, but for
what a recorded step or the encoder's layers do: views are none.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from decoder.plain import build_model
from decoder.translators import build_translator, translation
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
from xlmstream_worker import encoder as encoder_module
from xlmstream_worker import readback, transfer
from xlmstream_worker.decoder import DecoderEngine
from xlmstream_worker.encoder import EncoderEngine
from xlmstream_worker.encoder_inputs import (
    Candidates,
    ChoiceFit,
    EncoderInput,
    EncoderRequest,
    Labels,
    Likelihoods,
    Pooling,
    Reading,
    SpanBeam,
    Spans,
    TokenLabels,
    Vectors,
)
from xlmstream_worker.forward import Batch
from xlmstream_worker.sequences import (
    BeamParameters,
    BeamRules,
    DecodingMode,
    EngineConfig,
    SamplingParameters,
    SequenceRequest,
)
from xlmstream_worker.xlm import (
    XLMEncoderDecoder,
    XLMForMultipleChoice,
    XLMForQuestionAnswering,
    XLMForQuestionAnsweringSimple,
    XLMForSequenceClassification,
    XLMForTokenClassification,
    XLMWithLMHeadModel,
    packed,
    packed_attention,
)

Model = TypeVar("Model", bound=torch.nn.Module)

DEVICE = "fakegpu"
SAMPLINGS: dict[str, SamplingParameters] = {
    "greedy": SamplingParameters(),
    "temperature": SamplingParameters(temperature=0.7),
    "top-k": SamplingParameters(temperature=1.0, top_k=5),
    "large top-k": SamplingParameters(temperature=1.0, top_k=2000),
    "top-p": SamplingParameters(temperature=1.0, top_p=0.9),
    "typical-p": SamplingParameters(temperature=1.0, typical_p=0.9),
    "top-p and typical-p": SamplingParameters(temperature=1.0, top_p=0.5, typical_p=0.9),
    "min-p": SamplingParameters(temperature=1.3, min_p=0.05),
    "all of them": SamplingParameters(temperature=0.3, top_k=2000, top_p=0.8, min_p=0.01, typical_p=0.7),
    "few of all": SamplingParameters(temperature=0.3, top_k=20, top_p=0.8, min_p=0.01, typical_p=0.7),
    "logit bias": SamplingParameters(logit_bias=((9, 1.0), (8, -2.0))),
    "repetition": SamplingParameters(repetition_penalty=1.2),
    "presence, frequency": SamplingParameters(presence_penalty=0.1, frequency_penalty=0.1),
    "n-grams": SamplingParameters(no_repeat_ngram_size=3),
    "bad words": SamplingParameters(bad_words=((9, 8), (7,))),
}
HEADS: dict[type, list[Reading]] = {
    XLMForSequenceClassification: [Labels()],
    XLMForTokenClassification: [TokenLabels()],
    XLMForMultipleChoice: [ChoiceFit()],
    XLMForQuestionAnsweringSimple: [Spans()],
    XLMForQuestionAnswering: [SpanBeam()],
}
AS_ON_A_GPU = EngineConfig(
    max_slots=6, prefill_tokens=9, device=DEVICE, dtype="bfloat16", static_shapes=True, late_readback=True
)
VOCABULARY = 4097  # wide enough for every way of choosing among blocks
MOST_STEPS = 60


class Work(TorchDispatchMode):
    """Counts what starts work on the device and refuses a copy that makes the host wait."""

    def __init__(self) -> None:
        super().__init__()
        self.step: Counter[str] = Counter()
        self.loading = False
        self.recorded = False

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        made = [value for value in tree_leaves(result) if isinstance(value, Tensor)]
        # The value of a CPU's scalar travels with the launch.
        kinds = {value.device.type for value in (*given, *made) if value.dim() or value.device.type != "cpu"}
        if len(kinds) > 1 and not self.loading:
            raise AssertionError(f"{function} copies between {sorted(kinds)}, which waits for the device")
        if DEVICE in kinds and not function.is_view and function.namespace == "aten" and not self.recorded:
            self.step[str(function)] += 1
        return result


class Assignments(TorchFunctionMode):
    """Refuses numbers assigned to places of a tensor, which torch brings to a GPU by a copy that waits."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is Tensor.__setitem__ and args[0].device.type == DEVICE and not isinstance(args[2], Tensor):
            raise AssertionError(f"{args[2]} assigned to place {args[1]}, which waits for the device")
        return function(*args, **kwargs or {})


@contextmanager
def fake_device(mode: FakeTensorMode) -> Iterator[Work]:
    """Engines made and used inside take the ways of a GPU, with `Work` to watch them."""
    work = Work()

    def upload(values: Sequence[object], device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
        return placed(torch.tensor(values, dtype=dtype), device)

    def placed(values: Tensor, device: torch.device) -> Tensor:
        return torch.empty(values.shape, dtype=values.dtype, device=device)

    def not_isolated(run: Callable[..., None], items: Sequence[object], fail: object) -> None:
        if items:
            run(items)

    read = readback._read
    replaced: list[tuple[object, str, object]] = [
        (packed, "placed", placed),
        (packed_attention, "placed", placed),
        (readback, "_read", lambda launch, tensors, event: read(launch, [_Zeros(t.shape) for t in tensors], event)),
        (encoder_module, "_to_host", lambda found: [tuple(np.zeros(p.shape) for p in parts) for parts in found]),
    ]
    for module in [module for name, module in sys.modules.items() if name.startswith("xlmstream_worker.")]:
        if getattr(module, "upload", None) is transfer.upload and module is not transfer:
            replaced.append((module, "upload", upload))
        if hasattr(module, "run_isolated"):  # what it would keep for one request is to be seen
            replaced.append((module, "run_isolated", not_isolated))
    kept = [(owner, name, getattr(owner, name)) for owner, name, _ in replaced]
    for owner, name, value in replaced:
        setattr(owner, name, value)
    try:
        with mode, work, Assignments():
            yield work
    finally:
        for owner, name, value in kept:
            setattr(owner, name, value)


def on_device(model: Model, dtype: torch.dtype) -> Model:
    """`model.to(DEVICE, dtype)`, which parameters without content refuse."""
    placed: dict[Tensor, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None and weight not in placed:
                placed[weight] = torch.nn.Parameter(weight.detach().to(DEVICE, dtype), requires_grad=False)
            module._parameters[name] = None if weight is None else placed[weight]
    return model


class _Zeros:
    """What comes back to the host."""

    def __init__(self, shape: torch.Size) -> None:
        self._shape = shape

    def tolist(self) -> list[Any]:
        values: list[Any] = np.zeros(self._shape, dtype=np.int64).tolist()
        return values


def engine(model: Callable[[], XLMWithLMHeadModel | XLMEncoderDecoder], work: Work) -> DecoderEngine:
    work.loading = True
    made = DecoderEngine(on_device(model(), torch.bfloat16), AS_ON_A_GPU)
    work.loading = False
    scores = made._forward.scores

    def uncounted(batch: Batch) -> Tensor:
        work.recorded = True
        try:
            return scores(batch)
        finally:
            work.recorded = False

    made._forward.scores = uncounted  # type: ignore[method-assign]
    return made


def steps(made: DecoderEngine, work: Work, requests: Sequence[SequenceRequest]) -> int:
    """Let requests come, decode and leave; what the median step without joining rows started."""
    steady: list[int] = []
    waiting, taken = list(requests), 0
    while waiting or not made.idle:
        if waiting:
            made.add(waiting.pop(0))
        work.step = Counter()
        result = made.step()
        assert all(output.failure is None for output in result.tokens), result.tokens
        if result.batch_size and not result.prefill_tokens and not waiting:
            steady.append(work.step.total())
        taken += 1
        if taken == MOST_STEPS:  # a search whose end is always read as not yet come
            for request in requests:
                made.cancel(request.key)
    return sorted(steady)[len(steady) // 2]


def of_a_language_model(causal: bool, mode: DecodingMode, work: Work, *wishes: dict[str, Any]) -> int:
    requests = [
        SequenceRequest(f"r{n}", tuple(range(3, 10 + 7 * n % 31)), n % 3, mode, **{"max_new_tokens": 6} | wish)
        for n, wish in enumerate(wishes)
    ]
    return steps(engine(lambda: build_model(causal=causal, vocab_size=VOCABULARY, n_layers=2), work), work, requests)


def of_a_translator(work: Work, **wishes: Any) -> int:
    requests = [translation(f"t{n}", list(range(3, 8 + 9 * n)), eos_id=5, max_new_tokens=8, **wishes) for n in range(3)]
    return steps(engine(build_translator, work), work, requests)


def of_an_encoder(kind: type | None, work: Work) -> int:
    """The head's readings, or the body's and those of the vocabulary, after all layers and after one."""
    work.loading = True
    model: torch.nn.Module = build_model(causal=False)
    readings: list[Reading] = [
        *(Vectors(pooling, layer, 7, normalize=True) for pooling in Pooling for layer in (None, 1)),
        Candidates(4),
        Candidates(2, targets=(5, 6, 7)),
        Likelihoods(),
    ]
    if kind is not None:
        model = kind(model.config).eval()
        readings = HEADS[kind]
    on_device(model, torch.bfloat16)
    work.loading = False
    made = EncoderEngine(model)
    made.warm_up()
    inputs = []
    for n, reading in enumerate(readings * 3):
        length = 2 + 3 * n % 31
        places = (0, 1) if isinstance(reading, Candidates | Likelihoods | SpanBeam) else ()
        targets = {Likelihoods: (7, 8), SpanBeam: (0,)}.get(type(reading), ())
        languages = (1,) * length if n % 2 else None
        inputs.append(EncoderInput((5,) * length, reading, languages, places=places, targets=targets))
    made.add(EncoderRequest("all", tuple(inputs)))
    work.step = Counter()
    outputs = made.step().outputs
    assert len(outputs) == len(inputs)
    assert all(output.failure is None for output in outputs), outputs
    return work.step.total()


def scenarios() -> dict[str, Callable[[Work], int]]:
    plain, masked = DecodingMode.NEXT_TOKEN, DecodingMode.MASK_APPEND
    found: dict[str, Callable[[Work], int]] = {}
    for name, sampling in SAMPLINGS.items():
        found[name] = lambda work, s=sampling: of_a_language_model(True, plain, work, *[{"sampling": s}] * 2)
    longer = {"sampling": SAMPLINGS["temperature"], "max_new_tokens": 40}  # random numbers are computed for 16 tokens
    found["for long"] = lambda work: of_a_language_model(True, plain, work, longer)
    mix: list[dict[str, Any]] = [{"sampling": sampling, "eos_id": 9} for sampling in SAMPLINGS.values()]
    mix += [{"top_logprobs": 3}, {"min_new_tokens": 4, "eos_id": 9}, {"candidates": 2, "prefix_scope": "a"}]
    mix += [{"prefix_scope": "a"}, {"beam_search": BeamParameters(3), "eos_id": 9}]
    found["a mix"] = lambda work: of_a_language_model(True, plain, work, *mix)
    found["a mix, by a mask"] = lambda work: of_a_language_model(True, masked, work, *mix)
    found["a mix, masked model"] = lambda work: of_a_language_model(False, masked, work, *mix)
    found["greedy, by a mask"] = lambda work: of_a_language_model(True, masked, work, *[{}] * 3)
    found["logprobs"] = lambda work: of_a_language_model(True, plain, work, *[{"top_logprobs": 3}] * 3)
    found["translation"] = of_a_translator
    rules = BeamRules.ORIGINAL
    found["translation, beams"] = lambda work: of_a_translator(work, beam_search=BeamParameters(2, rules=rules))
    for kind in (None, *HEADS):
        found[f"encoder, {kind.__name__ if kind else 'body and vocabulary'}"] = lambda work, k=kind: of_an_encoder(
            k, work
        )
    return found


def main() -> int:
    warnings.simplefilter("ignore")
    _setup_privateuseone_for_python_backend(DEVICE)
    mode = FakeTensorMode(allow_non_fake_inputs=False)  # what is kept between engines belongs to it
    failed = 0
    for name, scenario in scenarios().items():
        with fake_device(mode) as work:
            try:
                print(f"{name}: {scenario(work)}")
            except (AssertionError, RuntimeError, NotImplementedError, TypeError) as error:
                if "-v" in sys.argv:
                    raise
                failed += 1
                print(f"{name}: {type(error).__name__}: {str(error).partition(chr(10))[0]}")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
