"""The commands that call a service: generate, tokenize, models, health, version."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, MutableSequence, Sequence
from typing import Any, TypeVar, cast

import grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

import xlmstream
from xlmstream.blocking_generation import GenerationStream
from xlmstream.channel import DEFAULT_ADDRESS, options_with, targets_of
from xlmstream.cli.failures import explain
from xlmstream.errors import InvalidInput, Unavailable, XlmstreamError
from xlmstream.failures import FailedCall, from_call
from xlmstream.keywords import GenerateKeywords, TokenizeKeywords
from xlmstream.messages import Generation
from xlmstream.retry import RetryPolicy
from xlmstream.sync import Client
from xlmstream.v1.common_pb2 import Task
from xlmstream.v1.models_pb2 import Model, ModelState

ADDRESS_VARIABLE = "XLMSTREAM_ADDRESS"
Item = TypeVar("Item")
# A person waits: tell after about a second that nothing answers.
_RETRY = RetryPolicy(max_attempts=5)


def generate(arguments: argparse.Namespace) -> int:
    """Stream one prompt, or send several together."""
    prompts = texts_of(arguments.texts)
    keywords = cast(GenerateKeywords, given_keywords(arguments, GenerateKeywords.__annotations__))
    with connect(arguments) as client:
        first = list(itertools.islice(prompts, 2))
        if len(first) == 1 and not arguments.json:
            return stream_text(client.generate_stream(first[0], **keywords), first[0])
        worst = 0
        for batch in _batches(itertools.chain(first, prompts), client.server_info().limits.max_inputs):
            outcomes = client.generate(batch, return_exceptions=True, **keywords)
            for prompt, outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, XlmstreamError):
                    code, message = explain(outcome, arguments.address)
                    worst = max(worst, code)
                    if arguments.json:
                        print_json({"prompt": prompt, "error": {"reason": outcome.reason, "message": outcome.message}})
                    else:
                        print()
                        print(f"xlmstream: {prompt!r}: {message}", file=sys.stderr)
                elif arguments.json:
                    print_json({"prompt": prompt, **generation_json(outcome)})
                else:
                    print(f"{_dim(prompt)} {outcome.text}" if sys.stdout.isatty() else outcome.text)
        return worst


def stream_text(opened: GenerationStream, prompt: str) -> int:
    """Print one text as it grows; for a person also the prompt before it and the figures after it."""
    watched = sys.stdout.isatty()
    if watched:
        print(_dim(prompt), end=" ", flush=True)
    began = time.perf_counter()
    first_s: float | None = None
    with opened as stream:
        for text in stream.text_deltas():
            first_s = first_s if first_s is not None else time.perf_counter() - began
            print(text, end="", flush=True)
        print()
        if watched:
            total_s = time.perf_counter() - began
            count = len(stream.token_ids)
            start = f", the first after {first_s * 1000:.0f} ms" if first_s is not None else ""
            rate = f"{count / total_s:.0f} tokens/s"
            print(_dim(f"{count} tokens in {total_s:.2f} s{start}; {rate}; {stream.finish_reason}"))
    return 0


def tokenize(arguments: argparse.Namespace) -> int:
    """One line a token, the texts apart by an empty line."""
    keywords = cast(TokenizeKeywords, given_keywords(arguments, TokenizeKeywords.__annotations__))
    with connect(arguments) as client:
        for number, text in enumerate(texts_of(arguments.texts)):
            tokens = client.tokenize(text, **keywords)
            if arguments.json:
                print_json({"text": text, "tokens": [dataclasses.asdict(token) for token in tokens.tokens]})
                continue
            if number:
                print()
            places = [f"{token.start}:{token.end}" for token in tokens.tokens]
            # Pieces come last: in some scripts a character is two columns wide, which nothing has to line up with then.
            print_table(("ID", "PLACE", "PIECE"), zip(map(str, tokens.ids), places, tokens.pieces, strict=True))
    return 0


def models(arguments: argparse.Namespace) -> int:
    with connect(arguments) as client:
        served = client.models()
    if arguments.json:
        for model in served:
            print_json(MessageToDict(model, preserving_proto_field_name=True))
    elif served:
        heading = ("MODEL", "STATE", "WORKERS", "MAX TOKENS", "DTYPE", "LANGUAGES", "TASKS")
        print_table(heading, map(_model_row, served))
    else:
        print("No model is served yet. Start a worker: xlmstream-worker --broker URL NAME=DIR", file=sys.stderr)
    return 0


def _model_row(model: Model) -> Sequence[str]:
    return (
        f"{model.name}@{model.version}",
        ModelState.Name(model.state).removeprefix("MODEL_STATE_").lower(),
        str(model.workers),
        str(model.max_input_tokens),
        model.dtype,
        " ".join(model.languages) or "-",
        " ".join(Task.Name(task).removeprefix("TASK_").lower() for task in model.tasks),
    )


def health(arguments: argparse.Namespace) -> int:
    """Call grpc.health.v1.Health/Check without its stubs, which the client does without.

    A message with one field 1 is on the wire what the wrapper of its type is: HealthCheckRequest{string service = 1}
    and HealthCheckResponse{ServingStatus status = 1}, where 1 is SERVING.
    """
    with grpc.insecure_channel(targets_of(arguments.address.split(","))[0], options_with(())) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check", StringValue.SerializeToString, Int32Value.FromString
        )
        try:
            serving = check(StringValue(value=arguments.service), timeout=arguments.timeout).value == 1
        except grpc.RpcError as failure:
            raise from_call(cast(FailedCall, failure)) from None
    print("serving" if serving else "not serving")
    return 0 if serving else 1


def version(arguments: argparse.Namespace) -> int:
    print(f"client  {xlmstream.__version__}")
    try:
        with connect(arguments, RetryPolicy(max_attempts=1)) as client:
            print(f"service {client.server_info().version} at {arguments.address}")
    except Unavailable:
        print(f"service none answers at {arguments.address}")
    return 0


def connect(arguments: argparse.Namespace, retry: RetryPolicy = _RETRY) -> Client:
    return Client(arguments.address.split(","), timeout_s=arguments.timeout, retry=retry)


def default_address() -> str:
    """Where commands go that name no address."""
    return os.environ.get(ADDRESS_VARIABLE, DEFAULT_ADDRESS)


def given_keywords(arguments: argparse.Namespace, known: Iterable[str]) -> dict[str, Any]:
    """The keywords that were set on the command line."""
    return {name: value for name in known if (value := getattr(arguments, name, None)) is not None}


def texts_of(given: Sequence[str]) -> Iterator[str]:
    """The texts of the command line, or those on the lines of standard input."""
    if given:
        yield from given
        return
    if sys.stdin.isatty():
        raise InvalidInput("no text: give one as an argument, or one a line on standard input")
    for line in sys.stdin:
        if line.strip():
            yield line.rstrip("\r\n")


def _batches(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    while batch := list(itertools.islice(items, size)):
        yield batch


def generation_json(generation: Generation) -> dict[str, object]:
    several = len(generation.candidates) > 1 or any(
        one.logprobs or one.score is not None for one in generation.candidates
    )
    candidates = [dataclasses.asdict(one) for one in generation.candidates]
    return {
        "text": generation.text,
        "token_ids": generation.token_ids,
        "finish_reason": generation.finish_reason,
        "parameters": {field.name: _plain(value) for field, value in generation.parameters.ListFields()},
        "usage": dataclasses.asdict(generation.usage),
        "timing": dataclasses.asdict(generation.timing),
        **({"candidates": candidates} if several else {}),
    }


def _plain(value: object) -> object:
    """A field of a message as JSON has it; a 64-bit seed stays a number, unlike in protobuf's own JSON."""
    if isinstance(value, MutableMapping):
        return dict(value)
    return list(value) if isinstance(value, MutableSequence) else value


def _dim(text: str) -> str:
    return text if os.environ.get("NO_COLOR") else f"\033[2m{text}\033[0m"


def print_json(value: Mapping[str, object]) -> None:
    print(json.dumps(value, ensure_ascii=False), flush=True)


def print_table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    lines = [heading, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heading))]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        print("  ".join(cells).rstrip())
