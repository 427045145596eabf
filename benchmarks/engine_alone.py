"""The decoder engine without the service around it: what the same sequences cost in one bare process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from xlmstream_worker.decoder import DecoderEngine
from xlmstream_worker.sequences import EngineConfig, SamplingParameters, SequenceRequest
from xlmstream_worker.xlm import XLMTokenizer, XLMWithLMHeadModel


@dataclass(frozen=True)
class Cost:
    wall_s: float
    cpu_s: float


def measure(model_dir: Path, prompts: Sequence[tuple[str, str]], new_tokens: int) -> Cost:
    """Decode `new_tokens` of each (text, language) at once on one thread, after a warm-up. Nothing is streamed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = XLMWithLMHeadModel.from_pretrained(model_dir, causal=True)
        tokenizer = XLMTokenizer.from_pretrained(model_dir)
        engine = DecoderEngine(model, EngineConfig(max_slots=len(prompts)))
        requests = [request(tokenizer, number, *prompt, new_tokens) for number, prompt in enumerate(prompts)]
        _drain(engine, requests)
        wall, cpu = time.perf_counter(), time.thread_time()
        _drain(engine, requests)
        return Cost(time.perf_counter() - wall, time.thread_time() - cpu)
    finally:
        torch.set_num_threads(threads)


def request(tokenizer: XLMTokenizer, number: int, text: str, language: str, new_tokens: int) -> SequenceRequest:
    ids = tokenizer.encode(text, add_special_tokens=False)
    languages = tokenizer.lang2id or {}
    return SequenceRequest(
        key=str(number),
        prompt_ids=(1, *ids),
        language_id=languages.get(language),
        max_new_tokens=new_tokens,
        sampling=SamplingParameters(temperature=0.7, seed=number),
    )


def _drain(engine: DecoderEngine, requests: Sequence[SequenceRequest]) -> None:
    for each in requests:
        engine.add(each)
    while not engine.idle:
        engine.step()
