"""Chunks of jobs on a worker: every item gets what a call of its own gives, beside calls that go first."""

from __future__ import annotations

import numpy as np
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from worker.chunks import chunk
from worker.fake_broker import FakeBroker
from worker.requests import generate, row
from worker.watched import SLOTS, WatchedEngine
from xlmstream.v1.common_pb2 import FINISH_REASON_LENGTH, TASK_EMBED, Task, TextInput
from xlmstream.v1.embedding_pb2 import EmbedParameters, EmbedRequest
from xlmstream.v1.generation_pb2 import GenerationParameters
from xlmstream.v1.job_pb2 import JobResult
from xlmstream_server.broker import Stop, Taken, TakenChunk
from xlmstream_worker import preparing, tokenizing
from xlmstream_worker.jobs.chunk import item_seed
from xlmstream_worker.jobs.chunks import Chunks
from xlmstream_worker.models import LoadedModel
from xlmstream_worker.serving import Serving
from xlmstream_worker.text_model import TextRate
from xlmstream_worker.tokenizing import Prepared

TEXTS = ["the lord", "and", "in 日", "abc, the", "and the lord said the"]
LONG = GenerationParameters(max_new_tokens=24, ignore_eos=True)


def asked(name: str, text: str = "the lord", **parameters: object) -> Taken:
    request = generate(text, **{"max_new_tokens": 12, "ignore_eos": True} | parameters)
    return row(request, execution_id=name).taken


def texts(count: int) -> list[str]:
    return [TEXTS[number % len(TEXTS)] for number in range(count)]


def results(broker: FakeBroker, *chunks: TakenChunk) -> list[list[JobResult]]:
    """The results of chunks, by index, when all have theirs."""

    def done(one: TakenChunk) -> bool:
        return len(broker.results.get(one.chunk_id, ())) == len(one.items)

    broker.until(lambda: all(done(one) for one in chunks))
    return [[result for _, result in sorted(broker.results[one.chunk_id].items())] for one in chunks]


def reason(status: Status) -> str:
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    return str(info.reason)


def ids(result: JobResult) -> list[int]:
    (candidate,) = result.generate.candidates
    return list(candidate.token_ids)


@pytest.mark.usefixtures("serving")
def test_items_of_an_encoder_task_give_what_calls_give_and_bad_ones_fail_alone(broker: FakeBroker) -> None:
    inputs = [
        *texts(70),
        TextInput(text="the lord", language="xx"),
        TextInput(text="a b " * 200),
        TextInput(),
        *texts(9),
    ]
    given = chunk("embed", inputs, EmbedParameters(normalize=True), first_index=500)
    request = EmbedRequest(inputs=[TextInput(text=text) for text in TEXTS], parameters=EmbedParameters(normalize=True))
    broker.give(given, row(request, TASK_EMBED, "call").taken)
    (got,) = results(broker, given)
    broker.until(lambda: broker.ended("call"))
    called = [output.result.embedding for output in broker.events["call"][0].embedded.outputs]
    assert [result.index for result in got] == list(range(500, 582))
    for expected, result in zip(texts(70) + texts(9), [*got[:70], *got[73:]], strict=True):
        vector, its = (
            np.frombuffer(one.data, "<f4") for one in (result.embed.embedding, called[TEXTS.index(expected)])
        )
        np.testing.assert_allclose(vector, its, atol=1e-5)
        assert result.embed.usage.prompt_tokens > 2
        assert result.embed.timing.worker_id == "w"
    assert [reason(result.error) for result in got[70:73]] == ["INVALID_INPUT", "INPUT_TOO_LONG", "INVALID_INPUT"]
    assert got[70].error.message.startswith("inputs[0].language: ")
    assert got[71].error.message.startswith("inputs[0].text: ")


@pytest.mark.usefixtures("serving")
def test_an_item_that_meets_a_defect_fails_alone(broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(task: Task.ValueType, request: bytes, model: LoadedModel) -> Prepared:
        if b"zebra" in request:
            raise RuntimeError("a defect")
        return tokenizing.prepare(task, request, model)

    monkeypatch.setattr(preparing, "prepare", prepare)
    given = chunk("embed", [*texts(40), "a zebra", *texts(5)])
    broker.give(given)
    (got,) = results(broker, given)
    assert [result.index for result in got if result.HasField("error")] == [40]
    assert reason(got[40].error) == "INTERNAL"


@pytest.mark.usefixtures("serving")
def test_generated_items_give_what_calls_give(broker: FakeBroker) -> None:
    given = chunk("generate", [*texts(3 * SLOTS), TextInput(text="x", language="xx")], LONG)
    broker.give(given)
    (got,) = results(broker, given)
    calls = [asked(f"call {number}", text, max_new_tokens=24) for number, text in enumerate(TEXTS)]
    broker.give(*calls)
    broker.until(lambda: all(broker.ended(one.envelope.execution_id) for one in calls))
    for number, result in enumerate(got[:-1]):
        events = broker.events[f"call {number % len(TEXTS)}"]
        assert ids(result) == [token for event in events for token in event.delta.token_ids]
        (candidate,) = result.generate.candidates
        assert candidate.text == "".join(event.delta.text for event in events)
        assert candidate.finish_reason == FINISH_REASON_LENGTH
        assert result.generate.usage == events[-1].finished.usage
        assert result.generate.parameters.max_new_tokens == 24
    assert reason(got[-1].error) == "INVALID_INPUT"
    assert got[-1].error.message.startswith("inputs[0].language: ")


@pytest.mark.usefixtures("serving")
def test_items_without_a_seed_draw_each_their_own_and_the_same_when_run_again(broker: FakeBroker) -> None:
    wild = GenerationParameters(max_new_tokens=8, ignore_eos=True, temperature=2.0)
    first = chunk("generate", ["the lord"] * 5, wild, chunk_id="00job.1.0")
    again = chunk("generate", ["the lord"] * 3, wild, chunk_id="00job.2.0", first_index=2)
    broker.give(first, again)
    one, other = results(broker, first, again)
    assert [ids(result) for result in one[2:]] == [ids(result) for result in other]
    assert [result.generate.parameters.seed for result in one] == [item_seed(11, index) for index in range(5)]
    assert len({tuple(ids(result)) for result in one}) > 1


@pytest.mark.usefixtures("serving")
def test_a_call_takes_the_slots_of_a_job_at_once_and_the_job_goes_on_as_if_nothing_was(
    broker: FakeBroker, engine: WatchedEngine
) -> None:
    longer = GenerationParameters(max_new_tokens=70, ignore_eos=True)
    undisturbed = chunk("generate", texts(len(TEXTS)), longer, chunk_id="00job.1.0")
    broker.give(undisturbed)
    (expected,) = results(broker, undisturbed)
    engine.step_s = 0.005
    sizes: list[int] = []
    engine.after_step = lambda result: sizes.append(result.batch_size)
    given = chunk("generate", texts(2 * SLOTS), longer, chunk_id="00job.1.1")
    broker.give(given)
    broker.until(lambda: len(sizes) > 6)
    with broker.changed:
        broker.queue += [asked(f"call {number}", text) for number, text in enumerate(texts(SLOTS))]
        asked_at = len(sizes)
    broker.until(lambda: all(broker.ended(f"call {number}") for number in range(SLOTS)))
    # Twelve tokens each, all at once; a few steps pass until they are taken and until their end is told. The job's rows
    # had sixty more to go.
    assert len(sizes) - asked_at < 12 + 24
    assert "00job.1.1" not in broker.results
    (got,) = results(broker, given)
    for place, result in enumerate(got):
        assert ids(result) == ids(expected[place % len(TEXTS)])
        assert result.generate.candidates[0].text == expected[place % len(TEXTS)].generate.candidates[0].text
        assert result.generate.usage.completion_tokens == 70


@pytest.mark.usefixtures("serving")
def test_a_job_that_is_cancelled_leaves_the_engine_within_two_steps(broker: FakeBroker, engine: WatchedEngine) -> None:
    engine.step_s = 0.005
    sizes: list[int] = []
    engine.after_step = lambda result: sizes.append(result.batch_size)
    broker.give(chunk("generate", texts(40), LONG), asked("call", max_new_tokens=60))
    broker.until(lambda: len(broker.events.get("call", ())) > 4)
    with broker.changed:
        broker.stops["00job.1.0"] = Stop.CANCELLED
        cancelled = len(sizes)
    broker.until(lambda: broker.ended("call"))
    assert len(sizes) > cancelled + 10
    assert set(sizes[cancelled + 2 :]) == {1}
    assert broker.held == ()


def test_when_drained_the_results_so_far_are_stored_and_the_rest_is_given_back(
    broker: FakeBroker, engine: WatchedEngine, serving: Serving
) -> None:
    engine.step_s = 0.005
    broker.give(chunk("generate", texts(40), LONG))
    broker.until(lambda: len(broker.results.get("00job.1.0", ())) >= SLOTS)
    serving.drain(0.0)
    serving.join()
    assert SLOTS <= len(broker.results["00job.1.0"]) < 40
    assert broker.handed_over == ("00job.1.0",)


@pytest.mark.usefixtures("serving")
def test_after_fencing_the_chunk_is_dropped(broker: FakeBroker, engine: WatchedEngine) -> None:
    engine.step_s = 0.005
    broker.give(chunk("generate", texts(40), LONG))
    broker.until(lambda: len(broker.results.get("00job.1.0", ())) > 2)
    with broker.changed:
        broker.fence = True
    broker.until(lambda: broker.lives == 2)
    with broker.changed:
        stored = len(broker.results["00job.1.0"])
    again = chunk("generate", texts(4), LONG, chunk_id="00job.1.1")
    broker.give(again)
    results(broker, again)
    assert len(broker.results["00job.1.0"]) == stored < 40
    broker.until(lambda: engine.busy_slots == 0)


def test_what_is_in_hand_is_bounded_and_taken_in_time() -> None:
    chunks = Chunks(slots=8, batch_tokens=100, text_rate=TextRate(), any_in_hand=lambda _: None)
    assert chunks.room(0) == 1
    given = chunk("generate", texts(20), LONG)
    assert chunks.took(given) == []
    assert chunks.room(0) == 0  # until what is there has begun
    rows = chunks.begin(0)
    assert len(rows) == 20
    assert chunks.room(0) == 0  # more than the slots need
    assert chunks.own_slots == 1
    chunks.drop(given.chunk_id)
    assert (len(chunks), chunks.own_slots) == (0, 0)
    assert all(one.ended for one in rows)
    for number in range(40):  # small ones: several at a time
        if chunks.room(0):
            chunks.took(chunk("embed", ["a"], chunk_id=str(number)))
            chunks.begin(0)
    assert chunks.room(0) > 2
    chunks.took(chunk("embed", ["a" * 400] * 6, chunk_id="large"))
    chunks.begin(0)
    assert chunks.room(0) == 0


def test_a_chunk_of_an_unknown_task_is_refused_item_by_item() -> None:
    chunks = Chunks(slots=8, batch_tokens=100, text_rate=TextRate(), any_in_hand=lambda _: None)
    given = chunk("embed", texts(3))
    given.spec.task.Clear()
    refused = chunks.took(given)
    assert chunks.begin(0) == []
    assert [one.result.index for one in refused] == [0, 1, 2]
    assert {reason(one.result.error) for one in refused} == {"TASK_UNSUPPORTED"}
    assert len(chunks) == 0
