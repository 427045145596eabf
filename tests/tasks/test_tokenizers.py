"""Tokenising in processes of its own: the same requests, and nothing lost when one of them is killed."""

from __future__ import annotations

import multiprocessing
import queue
import threading
from concurrent.futures.process import BrokenProcessPool
from unittest.mock import patch

import pytest
from tasks.conftest import Zoo
from tasks.zoo import row
from worker.fake_broker import FakeBroker
from xlmstream.v1.classification_pb2 import ClassifyTokensParameters, ClassifyTokensRequest
from xlmstream.v1.common_pb2 import TASK_CLASSIFY_TOKENS, TASK_EMBED, TextInput
from xlmstream.v1.embedding_pb2 import EmbedParameters, EmbedRequest
from xlmstream_worker.encoder import EncoderEngine
from xlmstream_worker.serving import Engines, Serving
from xlmstream_worker.tokenizing import Prepared, TokenizerProcesses, prepare

TEXTS = ["Paris is a big city", "l'été, ça va?", "nice " * 30]
REQUEST = ClassifyTokensRequest(
    inputs=[TextInput(text=TEXTS[0]), TextInput(text="x", language="xx"), TextInput(text=TEXTS[1], language="fr")]
)


def test_a_process_prepares_what_the_worker_would(zoo: Zoo) -> None:
    model = zoo("tags")
    wrong = ClassifyTokensRequest(parameters=ClassifyTokensParameters(ignore_labels=["ORG"]))
    processes = TokenizerProcesses(model, 1)
    results: queue.SimpleQueue[Prepared | BaseException] = queue.SimpleQueue()
    try:
        for request in (REQUEST, wrong):
            here = prepare(TASK_CLASSIFY_TOKENS, request.SerializeToString(), model)
            processes.submit(TASK_CLASSIFY_TOKENS, request.SerializeToString(), results.put)
            there = results.get(timeout=60)
            assert isinstance(there, Prepared)
            assert there.items == here.items
            assert (there.text_bytes, there.tokens) == (here.text_bytes, here.tokens)
        processes.submit(TASK_CLASSIFY_TOKENS, b"\xff", results.put)
        assert isinstance(results.get(timeout=60), Exception)
        for child in multiprocessing.active_children():
            child.kill()
            child.join()
        answers = []
        while not answers or isinstance(answers[-1], BrokenProcessPool):
            processes.submit(TASK_CLASSIFY_TOKENS, REQUEST.SerializeToString(), results.put)
            answers.append(results.get(timeout=60))
        assert answers[-1].items == prepare(TASK_CLASSIFY_TOKENS, REQUEST.SerializeToString(), model).items
    finally:
        processes.close()


def test_requests_of_a_process_that_died_are_served_all_the_same(zoo: Zoo) -> None:
    model, broker = zoo("base"), FakeBroker()

    def die(self: TokenizerProcesses, task: object, request: bytes, done: object) -> None:
        threading.Thread(target=done, args=(BrokenProcessPool("killed"),)).start()

    with patch.object(TokenizerProcesses, "submit", die):
        serving = Serving(
            model, Engines(None, EncoderEngine(model.network)), broker, lambda: None, stall_limit_s=30, tokenizers=2
        )
        serving.start()
        request = EmbedRequest(inputs=[TextInput(text=text) for text in TEXTS], parameters=EmbedParameters())
        broker.give(*(row(request, TASK_EMBED, f"e{number}").taken for number in range(5)))
        broker.until(lambda: all(broker.ended(f"e{number}") for number in range(5)))
        serving.drain(0.0)
        serving.join()
    for number in range(5):
        (event,) = broker.events[f"e{number}"]
        assert all(output.HasField("result") for output in event.embedded.outputs)


@pytest.mark.parametrize("tokenizers", [1, 2])
def test_a_served_model_with_and_without_processes(zoo: Zoo, tokenizers: int) -> None:
    model, broker = zoo("tags"), FakeBroker()
    serving = Serving(
        model,
        Engines(None, EncoderEngine(model.network)),
        broker,
        lambda: None,
        stall_limit_s=30,
        tokenizers=tokenizers,
    )
    serving.start()
    broker.give(*(row(REQUEST, TASK_CLASSIFY_TOKENS, f"e{number}").taken for number in range(20)))
    broker.until(lambda: all(broker.ended(f"e{number}") for number in range(20)))
    serving.drain(0.0)
    serving.join()
    outcomes = {
        tuple(output.WhichOneof("outcome") for output in broker.events[f"e{number}"][0].tokens_classified.outputs)
        for number in range(20)
    }
    assert outcomes == {("result", "error", "result")}
