"""What the service costs on top of the model: gateway, queue and worker against a bare echo and the bare engine.

    python -m benchmarks.system [--model NAME=DIR] [--json FILE]

1. Unary: a Tokenize call (almost no model work) through gateway, broker and worker, against a bare grpc.aio echo of
   the same bytes, 1 and 32 calls outstanding.
2. InferStream: the same inputs as items of one stream, 256 outstanding, against as many unary calls outstanding.
3. Streams: 1, 8 and 64 concurrent GenerateStream calls: time to first token, tokens/s, CPU a token by process.
4. The same sequences through the decoder engine alone, in one process: what the system adds.

CPU seconds come from the operating system, all threads of a process together; wall times on a shared machine are noisy.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
from xlmstream import AsyncClient
from xlmstream.v1.inference_pb2 import TokenizeRequest

from benchmarks import engine_alone, processes
from benchmarks.report import Table, finish, parser

DEMO = Path(__file__).resolve().parents[1] / "worker" / "xlmstream_worker" / "demo" / "xlm-clm-demo"
CALLS = {1: 200, 32: 1600}
OUTSTANDING = 256
# What the client gives every call; the echo gets the same.
DEADLINE_S = 600
STREAMS = (1, 8, 64)
NEW_TOKENS = 60
PROMPTS = (
    ("And the LORD said", "en"),
    ("L'Éternel dit à", "fr"),
    ("Und der HERR redete", "de"),
    ("Y dijo Jehová", "es"),
)


@dataclass(frozen=True)
class UnaryFigures:
    """One unary load: latencies in milliseconds, CPU microseconds a call of the server process."""

    p50_ms: float
    p99_ms: float
    calls_per_s: float
    server_us: float


async def unary_load(
    call: Callable[[], Awaitable[object]], server: psutil.Process, calls: int, outstanding: int
) -> UnaryFigures:
    latencies: list[float] = []
    todo = iter(range(calls))

    async def caller() -> None:
        for _ in todo:
            begin = time.perf_counter()
            await call()
            latencies.append(time.perf_counter() - begin)

    for _ in range(20):
        await call()
    cpu, begin = processes.cpu_s(server), time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(outstanding)))
    wall, cpu = time.perf_counter() - begin, processes.cpu_s(server) - cpu
    latencies.sort()
    return UnaryFigures(
        1e3 * statistics.median(latencies), 1e3 * latencies[int(0.99 * len(latencies))], calls / wall, 1e6 * cpu / calls
    )


async def unary(service: processes.Service) -> Table:
    table = Table(
        "Unary call: gateway, broker and worker against a bare grpc.aio echo",
        ("outstanding", "server", "p50 ms", "p99 ms", "calls/s", "server CPU us/call", "CPU ratio", "p50 ratio"),
    )
    text = PROMPTS[0][0]
    payload = TokenizeRequest(inputs=[{"text": text}]).SerializeToString()
    with processes.echo() as (echo_address, echo_process):
        async with grpc.aio.insecure_channel(echo_address) as channel, AsyncClient(service.address) as client:
            method = channel.unary_unary("/bench.Echo/Echo")
            for outstanding, calls in CALLS.items():
                rounds = []
                for _ in range(3):  # interleaved, so that a slow spell of the machine meets both
                    bare = await unary_load(
                        lambda: method(payload, timeout=DEADLINE_S), echo_process, calls, outstanding
                    )
                    ours = await unary_load(
                        lambda: client.tokenize(text), service.processes["gateway"], calls, outstanding
                    )
                    rounds.append((bare, ours))
                cpu_ratio = statistics.median(ours.server_us / bare.server_us for bare, ours in rounds)
                p50_ratio = min(ours.p50_ms for _, ours in rounds) / min(bare.p50_ms for bare, _ in rounds)
                for name, index in (("echo", 0), ("xlmstream", 1)):
                    best = min((each[index] for each in rounds), key=lambda figures: figures.p50_ms)
                    median_us = statistics.median(each[index].server_us for each in rounds)
                    table.rows.append(
                        (
                            str(outstanding),
                            name,
                            f"{best.p50_ms:.2f}",
                            f"{best.p99_ms:.2f}",
                            f"{best.calls_per_s:.0f}",
                            f"{median_us:.0f}",
                            f"{cpu_ratio:.2f}" if index else "1",
                            f"{p50_ratio:.2f}" if index else "1",
                        )
                    )
    table.notes.append(
        "Best of three rounds for latency and rate, median for CPU; targets: CPU <= 1.6x, p50 at 1 <= 2.5x."
    )
    return table


async def infer(service: processes.Service) -> Table:
    """What an item costs over a stream, and what a unary call of its own would cost."""
    table = Table(
        f"InferStream: {OUTSTANDING} items outstanding in one stream against as many unary calls",
        ("way", "items/s", "gateway us/item", "broker us/item", "worker us/item", "client us/item", "gateway ratio"),
    )
    text = PROMPTS[0][0]
    figures: dict[str, list[tuple[float, dict[str, float]]]] = {"unary": [], "map": []}
    async with AsyncClient(service.address) as client:

        async def one_by_one(items: int) -> None:
            todo = iter(range(items))

            async def caller() -> None:
                for _ in todo:
                    await client.tokenize(text)

            await asyncio.gather(*(caller() for _ in range(OUTSTANDING)))

        async def mapped(items: int) -> None:
            count = 0
            async with client.map("tokenize", itertools.repeat(text, items), max_in_flight=OUTSTANDING) as stream:
                async for each in stream:
                    count += len(each.result.tokens) > 0
            if count != items:
                raise RuntimeError(f"{count} of {items} items were answered")

        own = psutil.Process()
        for _ in range(3):
            for name, way, items in (("unary", one_by_one, 1_500), ("map", mapped, 15_000)):
                await way(200)
                before, own_before, begin = service.cpu_s(), processes.cpu_s(own), time.perf_counter()
                await way(items)
                wall, after = time.perf_counter() - begin, service.cpu_s()
                used = {each: 1e6 * (after[each] - before[each]) / items for each in after}
                used["client"] = 1e6 * (processes.cpu_s(own) - own_before) / items
                figures[name].append((items / wall, used))
    ratio = statistics.median(
        unary["gateway"] / bidi["gateway"]
        for (_, unary), (_, bidi) in zip(figures["unary"], figures["map"], strict=True)
    )
    for name, rounds in figures.items():
        median = {part: statistics.median(used[part] for _, used in rounds) for part in rounds[0][1]}
        table.rows.append(
            (
                name,
                f"{max(rate for rate, _ in rounds):.0f}",
                *(f"{median[part]:.0f}" for part in ("gateway", "broker", "worker", "client")),
                "1" if name == "unary" else f"{ratio:.1f}",
            )
        )
    table.notes.append("Best of three rounds for rates, median for CPU; target: at least 10x less gateway CPU an item.")
    return table


@dataclass(frozen=True)
class StreamFigures:
    first_token_s: list[float]
    tokens: int
    wall_s: float


async def one_stream(client: AsyncClient, number: int) -> tuple[float, int]:
    text, language = PROMPTS[number % len(PROMPTS)]
    begin, first, tokens = time.perf_counter(), 0.0, 0
    async with client.generate_stream(
        text, language=language, max_new_tokens=NEW_TOKENS, ignore_eos=True, temperature=0.7, seed=number
    ) as stream:
        async for event in stream:
            count = len(getattr(event, "token_ids", ()))
            if count and not tokens:
                first = time.perf_counter() - begin
            tokens += count
    return first, tokens


async def streams(service: processes.Service, model: Path) -> Table:
    table = Table(
        f"Streams of {NEW_TOKENS} tokens through the whole service",
        (
            "streams",
            "first token p50 ms",
            "max ms",
            "tokens/s",
            "engine alone tokens/s",
            "gateway us/token",
            "broker us/token",
            "worker us/token",
            "engine alone us/token",
        ),
    )
    async with AsyncClient(service.address) as client:
        await asyncio.gather(*(one_stream(client, number) for number in range(4)))
        for count in STREAMS:
            before, begin = service.cpu_s(), time.perf_counter()
            results = await asyncio.gather(*(one_stream(client, number) for number in range(count)))
            wall, after = time.perf_counter() - begin, service.cpu_s()
            tokens = sum(each for _, each in results)
            expected = count * NEW_TOKENS
            if tokens != expected:
                raise RuntimeError(f"{tokens} tokens arrived, {expected} were asked for")
            firsts = [1e3 * first for first, _ in results]
            used = {name: 1e6 * (after[name] - before[name]) / tokens for name in after}
            alone = engine_alone.measure(model, [PROMPTS[n % len(PROMPTS)] for n in range(count)], NEW_TOKENS)
            table.rows.append(
                (
                    str(count),
                    f"{statistics.median(firsts):.1f}",
                    f"{max(firsts):.1f}",
                    f"{tokens / wall:.0f}",
                    f"{tokens / alone.wall_s:.0f}",
                    f"{used['gateway']:.0f}",
                    f"{used['broker']:.0f}",
                    f"{used['worker']:.0f}",
                    f"{1e6 * alone.cpu_s / tokens:.0f}",
                )
            )
    table.notes.append(
        "The client runs on the same machine and takes its share of the cores. One worker, one compute thread; "
        "the engine alone decodes the same prompts with the same number of sequences in one process."
    )
    return table


async def run(name: str, model: Path) -> list[Table]:
    with processes.service([f"{name}={model}"], slots=max(STREAMS)) as service:
        return [await unary(service), await infer(service), await streams(service, model)]


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--model", default=f"xlm-clm-demo={DEMO}", metavar="NAME=DIR", help="default: the demo model")
    arguments = options.parse_args()
    name, _, directory = arguments.model.partition("=")
    finish(asyncio.run(run(name, Path(directory))), arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
