"""What `make demo` runs: start the whole service on this machine, stream a continuation in each language, stop.

Everything is real: an embedded broker, a gateway and a worker as processes of their own (`xlmstream up`), the shipped
demo model, and the client a backend would use.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import IO

from xlmstream import Client, TokenDelta, Unavailable

MODEL = "xlm-clm-demo"
PROMPTS = {
    "en": "And the LORD said to Moses,",
    "fr": "L'Éternel dit à Moïse:",
    "de": "Und der HERR redete mit Mose und sprach:",
    "es": "Y Jehová habló a Moisés, diciendo:",
}
START_TIMEOUT_S = 120.0


def main() -> int:
    print(
        "xlmstream demo: embedded broker, gateway and worker on this machine, an XLM model streaming text over gRPC.\n"
    )
    with running_service() as address, Client(address) as client:
        model = client.model(MODEL)
        print(
            f"Model {model.name}@{model.version}: causal XLM, {model.vocabulary_size} tokens, "
            f"{model.max_input_tokens} positions, languages {', '.join(model.languages)}.\n"
            "It is small, and trained on one book in four languages: right in phrases, wrong in sense.\n"
        )
        for language, prompt in PROMPTS.items():
            stream_one(client, language, prompt)
    print("Done. To keep a service running: xlmstream up. To call it: xlmstream generate 'And the LORD said'")
    return 0


def stream_one(client: Client, language: str, prompt: str) -> None:
    """Print a continuation as it arrives, then what it took."""
    print(f"[{language}] {prompt}", end="", flush=True)
    begin, first, prose = time.perf_counter(), 0.0, Prose()
    with client.generate_stream(
        prompt, language=language, max_new_tokens=48, temperature=0.7, top_p=0.9, seed=7
    ) as stream:
        for event in stream:
            if isinstance(event, TokenDelta):
                first = first or time.perf_counter() - begin
                print(prose.next(event.text), end="", flush=True)
    wall = time.perf_counter() - begin
    tokens = len(stream.token_ids)
    rate = (tokens - 1) / (wall - first) if tokens > 1 else 0.0
    print(f"\n     first token after {1e3 * first:.0f} ms, {tokens} tokens, {rate:.0f} tokens/s\n", flush=True)


class Prose:
    """Sets streamed tokens as a person would write them: the model's tokens are words and signs apart (l' eau , bleue).

    Only spaces are dropped, and each only once the next sign is known, so the text can be shown while it grows.
    """

    def __init__(self) -> None:
        self._last = " "
        self._space = True  # between the prompt and the continuation

    def next(self, text: str) -> str:
        """What of `text` can be shown now."""
        shown = []
        for character in text:
            if character == " ":
                self._space = True
                continue
            if self._space and character not in ",.;:!?)" and self._last not in "'(¿¡":
                shown.append(" ")
            shown.append(character)
            self._last, self._space = character, False
        return "".join(shown)


@contextlib.contextmanager
def running_service() -> Iterator[str]:
    """`xlmstream up` in the background: gives its address once the model answers, stops it at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        begin = time.perf_counter()
        print("Starting ...", end=" ", flush=True)
        service = subprocess.Popen(
            [sys.executable, "-m", "xlmstream.cli", "up", "--listen", address],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_ready(address, service, log)
            print(f"ready after {time.perf_counter() - begin:.1f} s on {address}.\n", flush=True)
            yield address
        finally:
            service.terminate()
            service.wait(timeout=60)


def wait_ready(address: str, service: subprocess.Popen[bytes], log: IO[str]) -> None:
    """Until the model is served. SystemExit with the service's own words where it ended or took too long."""
    deadline = time.monotonic() + START_TIMEOUT_S
    with Client(address) as client:
        while True:
            if service.poll() is not None or time.monotonic() > deadline:
                log.seek(0)
                raise SystemExit(f"the service did not start:\n{log.read()}")
            with contextlib.suppress(Unavailable):
                if any(model.name == MODEL for model in client.models()):
                    return
            time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
