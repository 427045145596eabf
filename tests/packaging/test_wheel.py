"""The built wheel, installed by itself into a clean environment: what `pip install xlmstream` gives a backend."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PROTOS = {path.name for path in (REPOSITORY / "protos" / "xlmstream" / "v1").glob("*.proto")}


# Nothing of this checkout may be importable: only what was installed.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def start(*command: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", env=ENVIRONMENT)


def run(*command: str | Path) -> str:
    done = start(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", directory, REPOSITORY)
    [built] = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment that holds the wheel and what it depends on."""
    directory = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", directory)
    python = directory / "bin" / "python"
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1")
    done = start(*pip, "-c", REPOSITORY / "constraints.txt", wheel)
    if done.returncode and "connection broken" in done.stderr:
        pytest.skip(f"the package index cannot be reached: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return python


def test_what_the_wheel_holds(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for package in ("xlmstream", "xlmstream_server", "xlmstream_worker"):
        assert f"{package}/py.typed" in names
    assert {f"xlmstream/v1/{name}" for name in PROTOS} <= names
    assert {f"xlmstream/v1/{name.removesuffix('.proto')}_pb2.pyi" for name in PROTOS} <= names
    for model in ("clm", "mlm"):
        assert f"xlmstream_worker/demo/xlm-{model}-demo/model.safetensors" in names
    for head in ("language", "tags", "entities", "answers"):
        assert f"xlmstream_worker/demo/xlm-mlm-demo-{head}/head.safetensors" in names
    for lang in ("de", "en", "es", "fr"):
        assert f"xlmstream_worker/training/lexicon/{lang}.toml" in names
    assert not [name for name in names if name.startswith(("tests/", "protos/")) or name.endswith(".pyc")]


def test_the_client_brings_neither_torch_nor_redis(python: Path) -> None:
    listed = run(python, "-m", "pip", "list", "--format", "freeze", "--disable-pip-version-check").lower().split()
    installed = {line.partition("==")[0] for line in listed} - {"pip", "setuptools", "wheel"}
    assert installed == {
        "google-crc32c",
        "googleapis-common-protos",
        "grpcio",
        "grpcio-status",
        "protobuf",
        "typing_extensions",
        "xlmstream",
    }


def test_the_installed_client_works(python: Path) -> None:
    code = """
from xlmstream import AsyncClient, Client, __version__
from xlmstream.testing import FakeServer
with FakeServer() as server, Client(server.address) as client:
    with client.generate_stream("In the beginning") as stream:
        print(*stream.text_deltas(), sep="", end="")
"""
    assert run(python, "-c", code) == "In the beginning"


def test_the_commands_are_there(python: Path) -> None:
    assert run(python.with_name("xlmstream"), "--help").startswith("usage: xlmstream")
    assert run(python, "-m", "xlmstream.cli", "--help").startswith("usage: xlmstream")
    for name in ("xlmstream-server", "xlmstream-worker"):
        assert python.with_name(name).exists()


def test_up_without_the_service_says_what_to_install(python: Path) -> None:
    done = start(python.with_name("xlmstream"), "up")
    assert done.returncode == 1
    assert "pip install 'xlmstream[all]'" in done.stderr
