"""What a stream has to tell: joined to few messages, none larger than clients take."""

from __future__ import annotations

from google.rpc.status_pb2 import Status
from xlmstream.v1.generation_pb2 import TokenDelta
from xlmstream_server.infer.batch import Item
from xlmstream_server.infer.outbox import MESSAGE_BYTES, Outbox


def test_messages_are_closed_by_whatever_fills_them() -> None:
    """Deltas that come while the caller does not read, as outputs do."""
    outbox = Outbox()
    item = Item(1, "generate")
    delta = TokenDelta(text="x" * 1000)
    for number in range(5000):
        outbox.delta(item, number, delta)
    for number in range(3000):
        outbox.fail(Item(2 + number, "embed"), Status(message="y" * 1000))
    messages = []
    while outbox:
        messages.append(outbox.take())
    assert len(messages) < 20
    assert max(message.ByteSize() for message in messages) < MESSAGE_BYTES * 1.2
    told = [event for message in messages for event in message.events]
    assert [event.delta.first_token for event in told if event.HasField("delta")] == list(range(5000))
    outputs = [event.output.correlation_id for event in told if event.HasField("output")]
    assert outputs == list(range(2, 3002))
    assert sum(event.credit.items for event in told if event.HasField("credit")) == 3000
