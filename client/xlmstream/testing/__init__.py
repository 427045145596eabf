"""A service for your own tests: answers over real gRPC on a free local port, in this process, without model or queue.

    from xlmstream import Client
    from xlmstream.testing import FakeServer

    def test_greeting() -> None:
        with FakeServer({"Hello": "my dear friend"}) as server, Client(server.address) as client:
            assert client.generate("Hello", max_new_tokens=5).text == "my dear friend"
            assert server.requests[-1].parameters.max_new_tokens == 5

It makes one token of each word, numbers the events of a stream and resumes it as the service does. It checks no limits:
what shall go wrong is told by `Failure` answers, `fail`, `break_streams` and `hold`. Jobs run as they are uploaded,
unless `hold_jobs` was called.
"""

from xlmstream.testing.script import Answer, Failure
from xlmstream.testing.server import FakeServer

__all__ = ["Answer", "Failure", "FakeServer"]
