"""The encoder engine against the library, one sequence at a time; and what goes wrong on a device."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tasks.conftest import Zoo
from xlmstream_worker.encoder import EncoderConfig, EncoderEngine
from xlmstream_worker.encoder_batches import (
    BATCHES_WITHOUT_BULK,
    BULK_PART,
    GOOD_BATCHES_TO_GROW,
    Batcher,
    Job,
    TokenBudget,
)
from xlmstream_worker.encoder_inputs import (
    Candidates,
    ChoiceFit,
    EncoderInput,
    EncoderOutput,
    EncoderRequest,
    Labels,
    Likelihoods,
    Pooling,
    Reading,
    SpanBeam,
    Spans,
    TokenLabels,
    Values,
    Vectors,
)
from xlmstream_worker.models import LoadedModel
from xlmstream_worker.sequences import FailureKind

POISON = 77
TOLERANCE = 1e-5


def an_input(generator: random.Random, reading: Reading, longest: int = 40) -> EncoderInput:
    T = generator.randint(6, longest)
    places = tuple(sorted(generator.sample(range(T), 5)))
    targets: tuple[int, ...] = ()
    if isinstance(reading, Likelihoods):
        targets = tuple(generator.randrange(100) for _ in places)
    elif isinstance(reading, SpanBeam):
        targets = (places[0],)
    return EncoderInput(
        ids=tuple(generator.randrange(14, 70) for _ in range(T)),
        reading=reading,
        languages=generator.choice([None, (0,) * T, tuple(generator.randrange(2) for _ in range(T))]),
        token_types=generator.choice([None, (0,) * T, tuple(generator.randrange(2) for _ in range(T))]),
        places=places,
        targets=targets,
        replaced=generator.choice([None, (T // 2, 5)]),
    )


def alone(model: LoadedModel, given: EncoderInput) -> Values:
    """What the library's own forward gives for one input."""
    ids = list(given.ids)
    if given.replaced:
        ids[given.replaced[0]] = given.replaced[1]
    arguments = {
        "input_ids": torch.tensor([ids]),
        "langs": None if given.languages is None else torch.tensor([given.languages]),
        "token_type_ids": None if given.token_types is None else torch.tensor([given.token_types]),
    }
    # Ids below the pad id's would shorten the sequence that the library infers: none is drawn, so all count.
    places, reading = list(given.places), given.reading
    with torch.inference_mode():
        if isinstance(reading, Vectors):
            core = model.network.transformer if hasattr(model.network, "transformer") else model.network
            x = core(**arguments, output_hidden_states=True).hidden_states[
                -1 if reading.layer is None else reading.layer
            ]
            pooled = {
                Pooling.FIRST: x[0, 0],
                Pooling.LAST: x[0, -1],
                Pooling.MEAN: x[0].mean(0),
                Pooling.MAX: x[0].max(0).values,
                Pooling.NONE: x[0],
            }[reading.pooling][..., : reading.dimensions]
            return ((pooled / pooled.norm(dim=-1, keepdim=True) if reading.normalize else pooled).numpy(),)
        if isinstance(reading, ChoiceFit):
            arguments = {name: None if value is None else value[:, None] for name, value in arguments.items()}
            return (model.network(**arguments).logits[0].numpy(),)
        if isinstance(reading, SpanBeam):
            mask = torch.ones(1, len(ids))
            mask[0, places] = 0.0
            out = model.network(**arguments, p_mask=mask, cls_index=torch.tensor(given.targets))
            n = out.start_top_index.shape[1]
            return (
                out.start_top_log_probs[0].numpy(),
                out.start_top_index[0].numpy(),
                out.end_top_log_probs[0].view(-1, n).numpy(),
                out.end_top_index[0].view(-1, n).numpy(),
                out.cls_logits.numpy(),
            )
        out = model.network(**arguments)
        if isinstance(reading, Spans):
            return out.start_logits[0].numpy(), out.end_logits[0].numpy()
        logits = out.logits[0]
        if isinstance(reading, Candidates):
            scores = logits[places].softmax(-1)
            among = scores[:, list(reading.targets)] if reading.targets else scores
            best, order = among.topk(reading.k)
            return (torch.tensor(reading.targets)[order] if reading.targets else order).numpy(), best.numpy()
        if isinstance(reading, Likelihoods):
            return (logits[places].log_softmax(-1)[range(len(places)), list(given.targets)].numpy(),)
        return (logits.numpy(),)


def run(engine: EncoderEngine, requests: Sequence[EncoderRequest]) -> dict[tuple[str, int], EncoderOutput]:
    for request in requests:
        engine.add(request)
    outputs: dict[tuple[str, int], EncoderOutput] = {}
    while not engine.idle:
        for output in engine.step().outputs:
            assert (output.key, output.index) not in outputs
            outputs[output.key, output.index] = output
    return outputs


def assert_same(got: Values, expected: Values) -> None:
    assert len(got) == len(expected)
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=TOLERANCE, rtol=TOLERANCE)


READINGS: dict[str, list[Reading]] = {
    "masked": [Candidates(3), Candidates(2, (20, 30, 40)), Likelihoods(), Vectors(Pooling.MEAN)],
    "causal": [Likelihoods(), Vectors(Pooling.LAST), Vectors(Pooling.NONE, layer=1)],
    "base": [
        Vectors(pooling, layer, dimensions, normalize)
        for pooling in Pooling
        for layer, dimensions, normalize in ((None, None, True), (0, 7, False), (2, 5, True))
    ],
    "single": [Labels(), Vectors(Pooling.FIRST)],
    "multi": [Labels()],
    "value": [Labels()],
    "tags": [TokenLabels(), Vectors(Pooling.MAX)],
    "choice": [ChoiceFit()],
    "answer": [Spans()],
    "beam": [SpanBeam()],
}


@pytest.mark.parametrize("name", READINGS)
@pytest.mark.parametrize("budget", [1, 100, 2000])
def test_every_input_gets_what_the_library_gives_it_alone(zoo: Zoo, name: str, budget: int) -> None:
    generator = random.Random(budget)
    requests = [
        EncoderRequest(
            f"r{number}",
            tuple(an_input(generator, generator.choice(READINGS[name])) for _ in range(generator.randint(1, 9))),
        )
        for number in range(12)
    ]
    outputs = run(EncoderEngine(zoo(name).network, EncoderConfig(budget)), requests)
    for request in requests:
        for index, one in enumerate(request.inputs):
            assert_same(outputs[request.key, index].values, alone(zoo(name), one))


class Watched(EncoderEngine):
    """Notes the tokens of each batch, and can be made to fail."""

    def __init__(self, model: LoadedModel, batch_tokens: int, memory_tokens: int = 10**9) -> None:
        super().__init__(model.network, EncoderConfig(batch_tokens))
        self.memory_tokens = memory_tokens
        self.batches: list[list[Job]] = []

    def _compute(self, jobs: Sequence[Job]) -> list[Values]:
        if sum(job.tokens for job in jobs) > self.memory_tokens:
            raise torch.OutOfMemoryError("no memory")
        if any(POISON in job.given.ids for job in jobs):
            raise RuntimeError("a kernel failed")
        self.batches.append(list(jobs))
        return super()._compute(jobs)


def texts(count: int, length: int = 10, *, token: int = 20) -> tuple[EncoderInput, ...]:
    return tuple(EncoderInput((token,) * length, Vectors(Pooling.MEAN)) for _ in range(count))


def test_a_request_larger_than_a_batch_is_split_and_shares_with_the_ones_behind_it(zoo: Zoo) -> None:
    engine = Watched(zoo("base"), batch_tokens=100)
    outputs = run(engine, [EncoderRequest("large", texts(95)), EncoderRequest("small", texts(2))])
    assert len(outputs) == 97
    assert all(not output.failure for output in outputs.values())
    assert [len(batch) for batch in engine.batches] == [10] * 9 + [7]
    assert sum(job.key == "small" for job in engine.batches[0]) == 2


def test_an_input_larger_than_the_budget_runs_by_itself(zoo: Zoo) -> None:
    engine = Watched(zoo("base"), batch_tokens=16)
    outputs = run(engine, [EncoderRequest("a", texts(1, 60)), EncoderRequest("b", texts(3, 8))])
    assert len(outputs) == 4
    assert [sorted(job.tokens for job in batch) for batch in engine.batches] == [[60], [8, 8], [8]]


def test_a_request_that_wants_to_be_alone_shares_no_batch(zoo: Zoo) -> None:
    engine = Watched(zoo("base"), batch_tokens=1000)
    requests = [EncoderRequest("a", texts(3)), EncoderRequest("b", texts(3), alone=True), EncoderRequest("c", texts(3))]
    run(engine, requests)
    assert sorted("".join(sorted({job.key for job in batch})) for batch in engine.batches) == ["ac", "b"]


def test_only_the_input_at_fault_fails(zoo: Zoo) -> None:
    engine = Watched(zoo("base"), batch_tokens=1000)
    poisoned = (*texts(7), *texts(1, token=POISON), *texts(5))
    outputs = run(engine, [EncoderRequest("a", poisoned), EncoderRequest("b", texts(9))])
    failed = {place: output.failure.kind for place, output in outputs.items() if output.failure}
    assert failed == {("a", 7): FailureKind.COMPUTE}
    assert len(outputs) == 22
    assert engine.budget_tokens == 1000


def test_values_that_are_no_numbers_fail_the_input_they_belong_to(zoo: Zoo) -> None:
    model = zoo("base")
    weights = model.network.embeddings.weight
    with torch.no_grad():
        kept = weights[POISON].clone()
        weights[POISON] = torch.nan
    try:
        engine = EncoderEngine(model.network)
        outputs = run(engine, [EncoderRequest("a", (*texts(3), *texts(1, token=POISON), *texts(3, 11)))])
    finally:
        with torch.no_grad():
            weights[POISON] = kept
    assert [index for (_, index), output in outputs.items() if output.failure] == [3]
    for index in (0, 2, 4, 6):
        assert_same(outputs["a", index].values, alone(model, texts(1, 10 if index < 3 else 11)[0]))


def test_out_of_memory_halves_the_budget_and_the_batch_is_retried_until_it_fits(zoo: Zoo) -> None:
    engine = Watched(zoo("base"), batch_tokens=1000, memory_tokens=260)
    outputs = run(engine, [EncoderRequest("a", texts(200))])
    assert len(outputs) == 200
    assert not any(output.failure for output in outputs.values())
    assert engine.budget_tokens <= 260
    assert max(sum(job.tokens for job in batch) for batch in engine.batches) <= 260
    engine.memory_tokens = 10**9
    for number in range(3 * GOOD_BATCHES_TO_GROW):
        run(engine, [EncoderRequest(f"again {number}", texts(1))])
    assert engine.budget_tokens == 1000


def test_an_input_that_has_no_memory_even_alone_fails_alone(zoo: Zoo) -> None:
    engine = Watched(zoo("base"), batch_tokens=1000, memory_tokens=50)
    outputs = run(engine, [EncoderRequest("a", (*texts(4), *texts(1, 60), *texts(4)))])
    failed = {place: output.failure.kind for place, output in outputs.items() if output.failure}
    assert failed == {("a", 4): FailureKind.OUT_OF_MEMORY}


def test_a_cancelled_request_computes_nothing_more(zoo: Zoo) -> None:
    engine = Watched(zoo("base"), batch_tokens=40)
    engine.add(EncoderRequest("a", texts(50)))
    engine.add(EncoderRequest("b", texts(2)))
    engine.step()
    engine.cancel("a")
    engine.cancel("unknown")
    rest = run(engine, [])
    assert {key for key, _ in rest} <= {"b"}
    assert engine.idle


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (EncoderInput((), Vectors(Pooling.MEAN)), "1 to 128"),
        (EncoderInput((1,) * 129, Vectors(Pooling.MEAN)), "1 to 128"),
        (EncoderInput((1, 4000), Vectors(Pooling.MEAN)), "ids must be 0 to"),
        (EncoderInput((1, 2), Vectors(Pooling.MEAN), languages=(0, 2)), "languages must be 0 to 1"),
        (EncoderInput((1, 2), Likelihoods(), places=(2,), targets=(1,)), "places must be 0 to 1"),
        (EncoderInput((1, 2), Labels()), "no head for Labels"),
    ],
)
def test_what_is_out_of_range_is_refused_before_it_reaches_the_device(
    zoo: Zoo, wrong: EncoderInput, message: str
) -> None:
    engine = EncoderEngine(zoo("masked").network)
    with pytest.raises(ValueError, match=message):
        engine.add(EncoderRequest("a", (wrong,)))
    assert engine.idle


@given(
    requests=st.lists(
        st.tuples(st.lists(st.integers(1, 50), min_size=1, max_size=12), st.booleans(), st.booleans()), max_size=8
    ),
    budget=st.integers(1, 120),
)
def test_batches_hold_every_input_once_and_never_more_than_fits(
    requests: list[tuple[list[int], bool, bool]], budget: int
) -> None:
    batcher = Batcher(bulk_tokens=40)
    for number, (lengths, by_itself, bulk) in enumerate(requests):
        inputs = tuple(EncoderInput((0,) * length, Labels()) for length in lengths)
        batcher.add(EncoderRequest(str(number), inputs, by_itself, bulk))
    seen = []
    while batch := batcher.next(budget):
        assert len(batch) == 1 or sum(job.tokens for job in batch) <= budget
        assert len({job.key for job in batch}) == 1 or not any(job.alone for job in batch)
        seen += [(job.key, job.index) for job in batch]
    assert not batcher
    expected = [(str(number), index) for number, (lengths, *_) in enumerate(requests) for index in range(len(lengths))]
    assert sorted(seen) == sorted(expected)


def embeddings(key: str, count: int, tokens: int = 10, *, bulk: bool = False) -> EncoderRequest:
    inputs = (EncoderInput((0,) * tokens, Vectors(Pooling.MEAN)),) * count
    return EncoderRequest(key, inputs, bulk=bulk)


def test_bulk_work_has_whole_batches_until_others_wait_and_then_fills_up_theirs_by_a_little() -> None:
    batcher, budget = Batcher(bulk_tokens=80), 160
    batcher.add(embeddings("job", 100, bulk=True))
    assert [job.key for job in batcher.next(budget)] == ["job"] * 8
    batcher.add(embeddings("asked", 3))
    assert [job.key for job in batcher.next(budget)] == ["asked"] * 3 + ["job"] * (8 // BULK_PART)
    batcher.add(embeddings("asked much", 17))
    assert [job.key for job in batcher.next(budget)] == ["asked much"] * 16
    assert [job.key for job in batcher.next(budget)] == ["asked much"] + ["job"] * (8 // BULK_PART)
    assert [job.key for job in batcher.next(budget)] == ["job"] * 8


def test_bulk_work_gets_a_batch_now_and_then_however_much_others_ask() -> None:
    batcher, budget = Batcher(bulk_tokens=160), 160
    batcher.add(embeddings("job", 100, bulk=True))
    batcher.add(embeddings("asked", 16 * 30))
    owners = []
    for _ in range(27):
        batch = batcher.next(budget)
        assert len({job.key for job in batch}) == 1
        owners.append(batch[0].key)
    assert owners == [*["asked"] * BATCHES_WITHOUT_BULK, "job"] * 3


def test_bulk_requests_come_one_after_another_and_can_be_cancelled() -> None:
    batcher = Batcher(bulk_tokens=60)
    for name in ("one", "other", "third"):
        batcher.add(embeddings(name, 8, bulk=True))
    assert [job.key for job in batcher.next(60)] == ["one"] * 6
    assert [job.key for job in batcher.next(60)] == ["one"] * 2 + ["other"] * 4
    batcher.cancel("other")
    assert [job.key for job in batcher.next(60)] == ["third"] * 6
    assert "other" not in batcher


def test_a_budget_grows_only_after_a_row_of_good_batches() -> None:
    budget = TokenBudget(64)
    budget.starved(48)
    assert budget.tokens == 24
    for _ in range(GOOD_BATCHES_TO_GROW - 1):
        budget.fitted()
    budget.starved(24)
    assert budget.tokens == 12
    for _ in range(GOOD_BATCHES_TO_GROW):
        budget.fitted()
    assert budget.tokens == 24
