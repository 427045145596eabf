"""One worker process: models loaded, places in the queue taken, signals obeyed."""

from __future__ import annotations

import logging
import os
import re
import secrets
import signal
import socket
import threading
import time
from collections.abc import Sequence

import torch
from xlmstream_server.broker import BrokerDown, BrokerMisconfigured, WorkerBroker

from xlmstream_worker import observe
from xlmstream_worker.admission import GENERATING
from xlmstream_worker.bodies import Bodies, bodies_first
from xlmstream_worker.config import BrokerConfig, ConfigError, DeviceConfig, WorkerConfig
from xlmstream_worker.decoder import DecoderEngine
from xlmstream_worker.encoder import EncoderConfig, EncoderEngine
from xlmstream_worker.models import LoadedModel, load_model
from xlmstream_worker.prepacking import prepack
from xlmstream_worker.readings import core_of
from xlmstream_worker.ready import ReadyFile
from xlmstream_worker.sequences import EngineConfig
from xlmstream_worker.serving import Engines, Serving
from xlmstream_worker.xlm import XLMEncoderDecoder, XLMWithLMHeadModel

CONNECT_EVERY_S = 1.0
EXIT_DEFECT = 70
MOST_TOKENIZERS = 12

log = logging.getLogger(__name__)


def run(config: WorkerConfig) -> None:
    """Serve until SIGTERM or SIGINT. The process belongs to this call: it sets handlers of signals and of exceptions.

    Raises ConfigError, XLMError, OSError or ValueError for what must be put right before a worker can serve.
    """
    _set_up_torch(config.device)
    bodies = Bodies()
    models = [load_model(model, config.device, bodies) for model in bodies_first(config.models)]
    engines = [_engines(model, config.device) for model in models]
    _serve(config, models, engines)


def _set_up_torch(device: DeviceConfig) -> None:
    if device.device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device {device.device}: PyTorch sees no GPU here")
    if device.threads:
        torch.set_num_threads(device.threads)


def _tokenizers(device: DeviceConfig, models: int) -> int:
    """How many texts each model tokenises at once."""
    if device.tokenizers:
        return device.tokenizers
    # On a CPU the cores are taken by the model itself, and on two of them nothing is gained.
    cores = os.cpu_count() or 1
    return min(max(cores // 2 // models, 1), MOST_TOKENIZERS) if device.device != "cpu" and cores > 2 else 1


def _engines(model: LoadedModel, device: DeviceConfig) -> Engines:
    """The engines of a model, warm."""
    began = time.monotonic()
    network = model.network
    decoder = None
    if isinstance(network, XLMEncoderDecoder | XLMWithLMHeadModel) and GENERATING.intersection(model.card.tasks):
        config = EngineConfig(max_slots=device.slots, device=device.device, dtype=model.card.dtype)
        decoder = DecoderEngine(network, config)
        decoder.warm_up()
    body = network.encoder if isinstance(network, XLMEncoderDecoder) else network
    prepack(core_of(body))  # the decoder has taken what it needs of the weights
    encoder = EncoderEngine(body, EncoderConfig(device.batch_tokens or None))
    encoder.warm_up()
    log.info("warm", extra=observe.fields(model=model.full_name, seconds=round(time.monotonic() - began, 2)))
    return Engines(decoder, encoder)


def _serve(config: WorkerConfig, models: Sequence[LoadedModel], engines: Sequence[Engines]) -> None:
    """Connect, serve every model until a signal, drain."""
    threading.excepthook = _die
    stopping = threading.Event()
    servings: list[Serving] = []

    def stop(*_: object) -> None:
        grace_s = 0.0 if stopping.is_set() else config.broker.drain_grace_s
        stopping.set()
        for serving in servings:
            serving.drain(grace_s)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    ready = ReadyFile(config.process.ready_file, [model.full_name for model in models])
    worker = _worker_name()
    tokenizers = _tokenizers(config.device, len(models))
    for place, (model, own) in enumerate(zip(models, engines, strict=True)):
        broker = _connect(config.broker, model, f"{worker}-{place}", stopping)
        if broker is None:
            break
        servings.append(
            Serving(model, own, broker, ready.beat(model.full_name), config.broker.stall_limit_s, tokenizers)
        )
        servings[-1].start()
    if stopping.is_set():  # perhaps before the last of them was there to be told
        for serving in servings:
            serving.drain(0.0)
    else:
        log.info("ready", extra=observe.fields(worker=worker, models=len(servings), device=config.device.device))
    for serving in servings:
        serving.join()
    ready.remove()


def _connect(
    config: BrokerConfig, model: LoadedModel, worker_id: str, stopping: threading.Event
) -> WorkerBroker | None:
    """A place in the queue, as soon as the broker is there; None if told to stop before."""
    while not stopping.is_set():
        try:
            return WorkerBroker.connect(
                config.broker,
                worker_id=worker_id,
                models=[model.full_name],
                lease_s=config.lease_s,
                shards=config.shards,
                allow_volatile=config.allow_volatile,
            )
        except BrokerMisconfigured as wrong:
            raise ConfigError(str(wrong)) from wrong
        except BrokerDown as down:
            log.warning("broker away", extra=observe.fields(error=str(down)))
            stopping.wait(CONNECT_EVERY_S)
    return None


def _worker_name() -> str:
    """New for each process, and telling where it runs."""
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:24]
    return f"{host}-{os.getpid()}-{secrets.token_hex(3)}"


def _die(failure: threading.ExceptHookArgs) -> None:
    """A thread met a defect: end like a crash, so that other workers take the rows over when the lease runs out."""
    if failure.exc_value is not None:
        log.critical("a thread failed", extra=observe.fields(error=observe.where(failure.exc_value)))
    os._exit(EXIT_DEFECT)
