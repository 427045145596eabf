"""The installed commands as they are run by hand: two models in one worker process, readiness, an orderly end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from e2e.service import Service, until
from e2e.solo import Solo
from worker.toy import make_model
from xlmstream.v1.common_pb2 import RequestOptions, TextInput, TokenIds
from xlmstream.v1.generation_pb2 import GenerationParameters
from xlmstream.v1.inference_pb2 import DetokenizeRequest, GenerateRequest, TokenizeRequest
from xlmstream_worker.config import DeviceConfig, ModelConfig
from xlmstream_worker.models import load_model
from xlmstream_worker.ready import is_fresh

if TYPE_CHECKING:
    from xlmstream.v1.inference_pb2_grpc import InferenceServiceAsyncStub


def start(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with log.open("w") as output:
        return subprocess.Popen([sys.executable, "-m", "xlmstream_worker", *arguments], stderr=output, env=environment)


async def test_two_models_in_one_process(
    service: Service, stub: InferenceServiceAsyncStub, solo: Solo, model_directory: Path, tmp_path: Path
) -> None:
    other_directory = make_model(tmp_path / "other", seed=1, default_language="fr")
    ready, log = tmp_path / "ready", tmp_path / "log"
    flags = ["--broker", service.broker_url, "--slots", "4", "--threads", "1", "--ready-file", str(ready)]
    process = start([*flags, f"toy={model_directory}", f"other@3={other_directory}"], log)
    try:
        until(lambda: is_fresh(ready) or process.poll() is not None, "readiness")
        assert process.poll() is None, log.read_text()
        service.wait_serving()
        service.wait_serving("other")

        async def generate(model: str, *texts: str) -> list[list[int]]:
            answer = await stub.Generate(
                GenerateRequest(
                    options=RequestOptions(model=model),
                    inputs=[TextInput(text=text) for text in texts],
                    parameters=GenerationParameters(max_new_tokens=20, ignore_eos=True),
                )
            )
            assert [output.WhichOneof("outcome") for output in answer.outputs] == ["result"] * len(texts)
            return [list(output.result.candidates[0].token_ids) for output in answer.outputs]

        for text, ids in zip(texts := ["the lord", "and"], await generate("toy", *texts), strict=True):
            solo.check(text, ids)
        other = Solo(load_model(ModelConfig(other_directory, "other"), DeviceConfig()))
        (ids,) = await generate("other@3", "the lord")
        assert ids != solo.ids("the lord", 20)
        other.check("the lord", ids)

        tokens = await stub.Tokenize(
            TokenizeRequest(options=RequestOptions(model="toy"), inputs=[TextInput(text="the lord")])
        )
        known = [token.id for token in tokens.outputs[0].result.tokens]
        assert known == solo.prompt("the lord")[1:]
        text = await stub.Detokenize(
            DetokenizeRequest(options=RequestOptions(model="toy"), inputs=[TokenIds(ids=known)])
        )
        assert text.outputs[0].result.text == "the lord"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert not ready.exists()
        assert "the lord" not in log.read_text()
    finally:
        process.kill()
        process.wait()
    service.wait_clean()
