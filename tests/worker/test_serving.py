"""The threads of a served model against a scripted broker: the happy path, and everything that can go wrong on it."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from worker.fake_broker import FakeBroker
from worker.requests import generate, row
from worker.watched import SLOTS, WatchedEngine
from xlmstream.v1.common_pb2 import TASK_DETOKENIZE, TASK_TOKENIZE, TextInput, TokenIds
from xlmstream.v1.inference_pb2 import DetokenizeRequest, TokenizeRequest
from xlmstream.version import __version__
from xlmstream_server.broker import Stop, Taken
from xlmstream_server.broker.v1.messages_pb2 import Event
from xlmstream_worker.models import LoadedModel
from xlmstream_worker.serving import Serving


def taken(name: str, text: str = "the lord", journal: tuple[Event, ...] = (), **parameters: object) -> Taken:
    request = generate(text, **{"max_new_tokens": 12, "ignore_eos": True} | parameters)
    return row(request, execution_id=name, journal=journal).taken


def text(events: list[Event]) -> str:
    return "".join(event.delta.text for event in events)


def tokens(events: list[Event]) -> list[int]:
    return [token for event in events for token in event.delta.token_ids]


def reason(event: Event) -> str:
    assert event.WhichOneof("kind") == "failed"
    return next(
        name
        for name in ("CANCELLED", "DEADLINE_COMPUTE", "INTERNAL", "INVALID_INPUT", "TASK_UNSUPPORTED")
        if name.encode() in event.failed.SerializeToString()
    )


@pytest.mark.usefixtures("serving")
def test_more_requests_than_slots_all_run_and_give_what_each_gives_alone(broker: FakeBroker) -> None:
    names = [f"r{n}" for n in range(3 * SLOTS)]
    texts = ["the lord", "and", "in 日", "abc, the"]
    broker.give(*(taken(name, texts[n % 4]) for n, name in enumerate(names)))
    broker.until(lambda: all(broker.ended(name) for name in names))
    for n, name in enumerate(names):
        kinds = [event.WhichOneof("kind") for event in broker.events[name]]
        assert kinds == ["started", *["delta"] * 12, "candidate_finished", "finished"]
        assert tokens(broker.events[name]) == tokens(broker.events[names[n % 4]])
    assert broker.held == ()


@pytest.mark.usefixtures("serving")
def test_tokenize_and_detokenize(broker: FakeBroker, toy: LoadedModel) -> None:
    asked = TokenizeRequest(
        inputs=[TextInput(text="the日 lord"), TextInput(text="x", language="xx")], add_special_tokens=True
    )
    back = DetokenizeRequest(inputs=[TokenIds(ids=[0, 113, 122, 1]), TokenIds(ids=[500])], skip_special_tokens=True)
    broker.give(
        row(asked, TASK_TOKENIZE, "t").taken,
        row(back, TASK_DETOKENIZE, "d").taken,
    )
    broker.until(lambda: broker.ended("t") and broker.ended("d"))
    good, bad = broker.events["t"][0].tokenized.outputs
    assert [(token.piece, token.start, token.end) for token in good.result.tokens] == [
        ("</s>", 0, 0),
        ("the</w>", 0, 3),
        ("日</w>", 3, 4),
        ("lord</w>", 5, 9),
        ("</s>", 0, 0),
    ]
    assert [token.id for token in good.result.tokens] == toy.tokenizer.convert_tokens_to_ids(
        [token.piece for token in good.result.tokens]
    )
    assert bad.error.message == "inputs[1].language: unknown; the model's languages: en, fr"
    good, bad = broker.events["d"][0].detokenized.outputs
    assert good.result.text == "the lord"
    assert bad.error.message == "inputs[1].ids[0]: must be below 123"


@pytest.mark.usefixtures("serving")
def test_a_request_that_cannot_be_read_fails_alone(broker: FakeBroker, caplog: pytest.LogCaptureFixture) -> None:
    garbage = replace(taken("bad"), envelope=row(b"\xff\xff secret", execution_id="bad").taken.envelope)
    broker.give(taken("a"), garbage, row(b"", 77, "task").taken, taken("top_k", top_k=10_000), taken("b"))
    names = ("a", "bad", "task", "top_k", "b")
    broker.until(lambda: all(broker.ended(name) for name in names))
    assert reason(broker.events["bad"][-1]) == "INTERNAL"
    assert reason(broker.events["task"][-1]) == "TASK_UNSUPPORTED"
    assert reason(broker.events["top_k"][-1]) == "INVALID_INPUT"
    assert tokens(broker.events["a"]) == tokens(broker.events["b"])
    assert "preparing failed" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.usefixtures("serving")
def test_nothing_is_lost_while_the_broker_is_away(broker: FakeBroker, engine: WatchedEngine) -> None:
    broker.give(taken("whole"))
    broker.until(lambda: broker.ended("whole"))
    broker.give(taken("r"))
    broker.until(lambda: len(broker.events.get("r", ())) > 2)
    broker.down = True
    seen, steps = len(broker.events["r"]), engine.steps
    broker.until(lambda: engine.steps > steps + 2)  # decoding goes on
    assert len(broker.events["r"]) == seen
    broker.down = False
    broker.until(lambda: broker.ended("r"))
    assert tokens(broker.events["r"]) == tokens(broker.events["whole"])


@pytest.mark.usefixtures("serving")
def test_what_a_take_gave_whose_reply_was_lost_runs_beside_what_runs(broker: FakeBroker, engine: WatchedEngine) -> None:
    engine.step_s = 0.01
    broker.give(taken("long", max_new_tokens=90))
    broker.until(lambda: len(broker.events.get("long", ())) > 2)
    broker.lose_take = True
    broker.give(taken("r"))
    broker.until(lambda: broker.ended("r"))
    assert not broker.ended("long")


@pytest.mark.usefixtures("serving")
def test_after_fencing_a_new_life_begins_without_the_old_rows(broker: FakeBroker, engine: WatchedEngine) -> None:
    broker.give(taken("whole", max_new_tokens=40))
    broker.until(lambda: broker.ended("whole"))
    broker.give(taken("r", max_new_tokens=40))
    broker.until(lambda: len(broker.events.get("r", ())) > 5)
    with broker.changed:
        broker.fence = True
        journal = tuple(broker.events["r"])
    broker.until(lambda: broker.lives == 2)
    broker.give(taken("r", max_new_tokens=40, journal=journal))
    broker.until(lambda: broker.ended("r"))
    assert tokens(broker.events["r"]) == tokens(broker.events["whole"])
    assert text(broker.events["r"]) == text(broker.events["whole"])
    assert [event.WhichOneof("kind") for event in broker.events["r"]].count("started") == 1
    broker.until(lambda: engine.busy_slots == 0)


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (Stop.CANCELLED, "CANCELLED"),
        (Stop.ORPHANED, "CANCELLED"),
        (Stop.EXPIRED, "DEADLINE_COMPUTE"),
        (Stop.LOST, None),
    ],
)
@pytest.mark.usefixtures("serving")
def test_a_row_that_is_not_wanted_leaves_within_two_steps(
    broker: FakeBroker, engine: WatchedEngine, stop: Stop, expected: str | None
) -> None:
    rows_in_steps: list[int] = []
    engine.after_step = lambda result: rows_in_steps.append(result.batch_size)
    broker.give(taken("healthy", max_new_tokens=60), taken("r", max_new_tokens=60))
    broker.until(lambda: len(broker.events.get("r", ())) > 4)
    with broker.changed:  # between two calls of the publisher
        broker.stops["r"] = stop
        seen, step = len(broker.events["r"]), len(rows_in_steps)
    broker.until(lambda: broker.ended("healthy"))
    if expected is None:
        assert not broker.ended("r")
    else:
        assert reason(broker.events["r"][-1]) == expected
        assert [event.WhichOneof("kind") for event in broker.events["r"]].count("failed") == 1
    # The step that ran when it was cancelled and the one after it; the events of the first may still be sent.
    assert rows_in_steps[step + 2 :] == [1] * len(rows_in_steps[step + 2 :])
    assert len(rows_in_steps) > step + 10
    assert len([e for e in broker.events["r"][seen:] if e.HasField("delta")]) <= 2
    assert "r" not in broker.held


@pytest.mark.usefixtures("serving")
def test_a_row_cancelled_before_it_runs_never_runs(broker: FakeBroker, engine: WatchedEngine) -> None:
    broker.stops["r"] = Stop.CANCELLED
    broker.give(taken("r", max_new_tokens=60))
    broker.until(lambda: broker.ended("r"))
    broker.give(taken("after"))
    broker.until(lambda: broker.ended("after"))
    assert engine.busy_slots == 0
    assert reason(broker.events["r"][-1]) == "CANCELLED"


@pytest.mark.usefixtures("serving")
def test_decoding_is_never_more_than_one_step_ahead(broker: FakeBroker, engine: WatchedEngine) -> None:
    ahead: list[int] = []
    engine.after_step = lambda result: ahead.append(engine.steps - len(broker.events.get("r", ())))
    broker.give(taken("r", max_new_tokens=40))
    broker.until(lambda: broker.ended("r"))
    # Event 0 is Started, so a step whose events are all sent has one event more than there were steps.
    assert max(ahead) <= 1


@pytest.mark.usefixtures("serving")
def test_a_stuck_decoder_lets_the_lease_run_out(broker: FakeBroker, engine: WatchedEngine) -> None:
    broker.give(taken("r", max_new_tokens=40))
    broker.until(lambda: len(broker.events.get("r", ())) > 2)
    engine.may_step.clear()
    threading.Event().wait(0.5)  # well past the stall limit of 0.1 s
    renewals = broker.renewals
    threading.Event().wait(0.5)
    assert broker.renewals == renewals
    broker.fence = True  # others have reaped it meanwhile
    engine.may_step.set()
    broker.until(lambda: broker.lives == 2 and broker.renewals > renewals)


def test_draining_lets_running_work_finish_and_takes_nothing(broker: FakeBroker, serving: Serving) -> None:
    broker.give(taken("r", max_new_tokens=40))
    broker.until(lambda: len(broker.events.get("r", ())) > 2)
    serving.drain(20.0)
    broker.give(taken("later"))
    serving.join()
    assert broker.ended("r")
    assert broker.handed_over == ()
    assert [one.envelope.execution_id for one in broker.queue] == ["later"]


def test_draining_hands_over_what_outlasts_the_grace(
    broker: FakeBroker, engine: WatchedEngine, serving: Serving
) -> None:
    engine.step_s = 0.02
    broker.give(taken("r", max_new_tokens=80))
    broker.until(lambda: len(broker.events.get("r", ())) > 2)
    serving.drain(0.05)
    serving.join()
    assert not broker.ended("r")
    assert broker.handed_over == ("r",)


@pytest.mark.usefixtures("serving")
def test_the_registry_learns_what_is_served(broker: FakeBroker) -> None:
    broker.until(lambda: bool(broker.cards))
    (served,) = broker.cards[0].models
    assert (served.model.name, served.model.version, served.slots, served.busy_slots) == ("toy", "1", SLOTS, 0)
    assert 1 < served.bytes_per_token < 10
    assert broker.cards[0].version == __version__
