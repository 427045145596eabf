"""How long one batch of a job's work holds an engine: what a call may have to wait for."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch
from xlmstream_worker.config import DeviceConfig, ModelConfig
from xlmstream_worker.decoder import DecoderEngine
from xlmstream_worker.encoder import CPU_BULK_TOKENS, EncoderEngine
from xlmstream_worker.encoder_inputs import EncoderInput, EncoderRequest, Pooling, Vectors
from xlmstream_worker.models import load_model
from xlmstream_worker.sequences import EngineConfig, SequenceRequest

ROUNDS = 25
INPUT_TOKENS = 32
TOKEN = 50


def batch_ms(task: str, directory: Path, slots: int) -> float:
    """Median wall time of a full batch of bulk work: of Embed its tokens, of Generate a step of all slots."""
    torch.set_num_threads(1)
    network = load_model(ModelConfig(directory, "model"), DeviceConfig()).network
    seconds = _encoding(EncoderEngine(network)) if task == "embed" else _decoding(network, slots)
    return 1e3 * statistics.median(seconds)


def _encoding(engine: EncoderEngine) -> list[float]:
    given = EncoderInput((TOKEN,) * INPUT_TOKENS, Vectors(Pooling.MEAN))
    seconds = []
    for number in range(ROUNDS):
        engine.add(EncoderRequest(str(number), (given,) * (CPU_BULK_TOKENS // INPUT_TOKENS), bulk=True))
        begun = time.perf_counter()
        engine.step()
        seconds.append(time.perf_counter() - begun)
    return seconds


def _decoding(network: torch.nn.Module, slots: int) -> list[float]:
    engine = DecoderEngine(network, EngineConfig(max_slots=slots))
    for number in range(slots):
        engine.add(SequenceRequest(str(number), (TOKEN,) * 8, max_new_tokens=3 * ROUNDS))
    seconds = []
    while len(seconds) < ROUNDS:
        begun = time.perf_counter()
        if engine.step().batch_size == slots:
            seconds.append(time.perf_counter() - begun)
    return seconds
