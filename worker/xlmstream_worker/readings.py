"""What is read from hidden states: the heads of the models, applied to packed batches.

Each function takes the states of a batch and the places in it of the inputs that want the same reading, and gives one
tuple of tensors for each, on the device. Nothing depends on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .encoder_batches import Job
from .encoder_inputs import (
    Candidates,
    ChoiceFit,
    Labels,
    Likelihoods,
    Pooling,
    Reading,
    SpanBeam,
    Spans,
    TokenLabels,
    Vectors,
)
from .transfer import upload
from .xlm import (
    PackedStates,
    XLMForMultipleChoice,
    XLMForQuestionAnswering,
    XLMForQuestionAnsweringSimple,
    XLMForSequenceClassification,
    XLMForTokenClassification,
    XLMModel,
    XLMWithLMHeadModel,
)

# Rows of vocabulary scores at a time: at 64,139 entries they take 64 MB in float32.
_VOCABULARY_ROWS = 256

Read = list[tuple[Tensor, ...]]


def read(model: torch.nn.Module, reading: Reading, states: PackedStates, rows: Sequence[int], jobs: list[Job]) -> Read:
    """The values of `reading` for the inputs at `rows` of the batch, which `jobs` asked for.

    Raises ValueError where the model has no head for it.
    """
    match reading:
        case Vectors():
            return _vectors(reading, states, rows)
        case Candidates() if isinstance(model, XLMWithLMHeadModel):
            return _candidates(model, reading, states, rows, jobs)
        case Likelihoods() if isinstance(model, XLMWithLMHeadModel):
            return _likelihoods(model, states, rows, jobs)
        case Labels() if isinstance(model, XLMForSequenceClassification):
            return _single(model.sequence_summary(_summarised(states, rows, model.config.summary_type)))
        case ChoiceFit() if isinstance(model, XLMForMultipleChoice):
            summary = model.sequence_summary(_summarised(states, rows, model.config.summary_type))
            return _single(model.logits_proj(summary))
        case TokenLabels() if isinstance(model, XLMForTokenClassification):
            return [(scores,) for scores in _by_input(model.classifier(states.values), states, rows)]
        case Spans() if isinstance(model, XLMForQuestionAnsweringSimple):
            scores = _by_input(model.qa_outputs(states.values), states, rows)
            return [(score[:, 0], score[:, 1]) for score in scores]
        case SpanBeam() if isinstance(model, XLMForQuestionAnswering):
            return [_span_beam(model, states[row], job) for row, job in zip(rows, jobs, strict=True)]
    raise ValueError(f"a {type(model).__name__} has no head for {type(reading).__name__}")


def has_head(model: torch.nn.Module, reading: Reading) -> bool:
    """Whether `read` can serve this reading."""
    heads: dict[type, type[torch.nn.Module]] = {
        Candidates: XLMWithLMHeadModel,
        Likelihoods: XLMWithLMHeadModel,
        Labels: XLMForSequenceClassification,
        ChoiceFit: XLMForMultipleChoice,
        TokenLabels: XLMForTokenClassification,
        Spans: XLMForQuestionAnsweringSimple,
        SpanBeam: XLMForQuestionAnswering,
    }
    return isinstance(reading, Vectors) or isinstance(model, heads[type(reading)])


def core_of(model: torch.nn.Module) -> XLMModel:
    """The transformer without its head."""
    if isinstance(model, XLMModel):
        return model
    core = model.transformer
    assert isinstance(core, XLMModel)
    return core


# Hidden states


def _vectors(reading: Vectors, states: PackedStates, rows: Sequence[int]) -> Read:
    if reading.pooling is Pooling.NONE:
        return [(_scaled(x, reading),) for x in _by_input(states.values, states, rows)]
    return _single(_scaled(_pooled(states, rows, reading.pooling), reading))


def _scaled(x: Tensor, reading: Vectors) -> Tensor:
    x = x.float()[..., : reading.dimensions]
    return torch.nn.functional.normalize(x, dim=-1) if reading.normalize else x


def _pooled(states: PackedStates, rows: Sequence[int], pooling: Pooling) -> Tensor:
    """(n, E)."""
    batch, x = states.batch, states.values
    if pooling is Pooling.FIRST:
        return x[_index([batch.starts[row] for row in rows], x)]
    if pooling is Pooling.LAST:
        return x[_index([batch.starts[row] + batch.lengths[row] - 1 for row in rows], x)]
    inputs = _by_input(x, states, rows)
    if pooling is Pooling.MAX:
        return torch.stack([one.amax(0) for one in inputs])
    lengths = _index([len(one) for one in inputs], x)
    owners = torch.repeat_interleave(
        torch.arange(len(rows), device=x.device), lengths, output_size=sum(map(len, inputs))
    )
    sums = x.new_zeros(len(rows), x.shape[1], dtype=torch.float32)
    return sums.index_add_(0, owners, torch.cat(inputs).float()).div_(lengths[:, None])


def _summarised(states: PackedStates, rows: Sequence[int], summary_type: str) -> Tensor:
    """(n, 1, E): what SequenceSummary picks, which of a sequence of one is that one."""
    pooling = {"first": Pooling.FIRST, "mean": Pooling.MEAN}.get(summary_type, Pooling.LAST)
    return _pooled(states, rows, pooling).to(states.values.dtype)[:, None]


def _by_input(x: Tensor, states: PackedStates, rows: Sequence[int]) -> list[Tensor]:
    starts, lengths = states.batch.starts, states.batch.lengths
    return [x[starts[row] : starts[row] + lengths[row]] for row in rows]


def _single(x: Tensor) -> Read:
    return [(row,) for row in x.unbind(0)]


def _index(places: Sequence[int], like: Tensor) -> Tensor:
    return upload(places, like.device, torch.int64)


# The vocabulary


def _candidates(
    model: XLMWithLMHeadModel, reading: Candidates, states: PackedStates, rows: Sequence[int], jobs: list[Job]
) -> Read:
    targets = _index(reading.targets, states.values) if reading.targets else None
    ids, scores = [], []
    for logs in _log_probabilities(model, states, rows, jobs):
        among = logs if targets is None else logs[:, targets]
        best, places = among.topk(min(reading.k, among.shape[1]), dim=-1)
        scores.append(best.exp())
        ids.append(places if targets is None else targets[places])
    counts = [len(job.given.places) for job in jobs]
    return list(zip(torch.split(torch.cat(ids), counts), torch.split(torch.cat(scores), counts), strict=True))


def _likelihoods(model: XLMWithLMHeadModel, states: PackedStates, rows: Sequence[int], jobs: list[Job]) -> Read:
    targets = _index([target for job in jobs for target in job.given.targets], states.values)
    chunks = zip(_log_probabilities(model, states, rows, jobs), torch.split(targets, _VOCABULARY_ROWS), strict=True)
    scores = torch.cat([logs.gather(1, wanted[:, None])[:, 0] for logs, wanted in chunks])
    return [(part,) for part in torch.split(scores, [len(job.given.places) for job in jobs])]


def _log_probabilities(
    model: XLMWithLMHeadModel, states: PackedStates, rows: Sequence[int], jobs: list[Job]
) -> Iterator[Tensor]:
    """Of the whole vocabulary at every place of every job, float32 (at most _VOCABULARY_ROWS, V) at a time."""
    starts = states.batch.starts
    places = [starts[row] + place for row, job in zip(rows, jobs, strict=True) for place in job.given.places]
    x = states.values[_index(places, states.values)]
    for part in torch.split(x, _VOCABULARY_ROWS):
        yield model.pred_layer(part).float().log_softmax(-1)


# Answers


def _span_beam(model: XLMForQuestionAnswering, x: Tensor, job: Job) -> tuple[Tensor, ...]:
    """One input at a time: the ends are scored for each start of its own."""
    T = len(x)
    forbidden = x.new_ones(1, T)
    forbidden[0].index_fill_(0, _index(job.given.places, x), 0.0)  # an assignment would wait for a GPU
    cls_index = _index(job.given.targets, x)
    found = model.qa_outputs(x[None], cls_index, forbidden, most=len(job.given.places))
    starts, ends = found.start_top_log_probs, found.end_top_log_probs
    n = starts.shape[1]
    return (
        starts[0],
        found.start_top_index[0],
        ends[0].view(-1, n),
        found.end_top_index[0].view(-1, n),
        found.cls_logits,
    )
