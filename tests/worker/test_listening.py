"""Listening for calls beside a job."""

from __future__ import annotations

import queue
import threading

from worker.fake_broker import FakeBroker
from worker.requests import generate, row
from xlmstream_server.broker import BrokerDown
from xlmstream_worker.listening import Listening


def start(listening: Listening) -> threading.Thread:
    thread = threading.Thread(target=listening.run, daemon=True)
    thread.start()
    return thread


def test_it_wakes_with_every_call_while_it_is_on() -> None:
    broker = FakeBroker()
    woken: queue.SimpleQueue[None] = queue.SimpleQueue()
    listening = Listening(broker.bell(), lambda: woken.put(None))
    thread = start(listening)
    listening.switch(True)
    for number in range(3):
        broker.give(row(generate(), execution_id=str(number)).taken)
        woken.get(timeout=60)
    listening.close()
    thread.join(60)
    assert not thread.is_alive()


def test_a_broker_that_is_away_is_asked_again() -> None:
    class Returning:
        waits = 0

        def wait(self, timeout_s: float) -> bool:
            self.waits += 1
            if self.waits == 1:
                raise BrokerDown("away")
            return True

        def close(self) -> None: ...

    woken: queue.SimpleQueue[None] = queue.SimpleQueue()
    listening = Listening(Returning(), lambda: woken.put(None))
    thread = start(listening)
    listening.switch(True)
    woken.get(timeout=60)
    listening.close()
    thread.join(60)
    assert not thread.is_alive()


def test_it_does_not_ask_before_it_is_on() -> None:
    class Unasked:
        def wait(self, timeout_s: float) -> bool:
            raise AssertionError("nobody listens")

        def close(self) -> None: ...

    listening = Listening(Unasked(), lambda: None)
    listening.switch(True)
    listening.switch(False)
    thread = start(listening)
    listening.close()
    thread.join(60)
    assert not thread.is_alive()
