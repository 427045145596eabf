"""Dependencies point one way: client <- server <- worker, and each layer keeps out what it must not know."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
CLIENT = REPOSITORY / "client" / "xlmstream"
SERVER = REPOSITORY / "server" / "xlmstream_server"
WORKER = REPOSITORY / "worker" / "xlmstream_worker"


def imports(path: Path) -> Iterator[str]:
    """Every module that a file names in an import, at any depth of the code, as an absolute name."""
    package = path.relative_to(REPOSITORY).parts[1:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def offenders(files: list[Path], banned: tuple[str, ...], allowed: tuple[str, ...] = ()) -> list[str]:
    def within(name: str, roots: tuple[str, ...]) -> bool:
        return any(name == root or name.startswith(root + ".") for root in roots)

    return [
        f"{path.relative_to(REPOSITORY)} imports {name}"
        for path in files
        for name in imports(path)
        if within(name, banned) and not within(name, allowed)
    ]


def files(root: Path, *parts: str) -> list[Path]:
    found = sorted((root.joinpath(*parts)).rglob("*.py"))
    assert found, f"no files below {root.joinpath(*parts)}"
    return found


def test_client_knows_neither_torch_nor_redis_nor_the_other_packages() -> None:
    heavy = ("torch", "redis", "numpy", "transformers", "sacremoses", "safetensors")
    assert not offenders(files(CLIENT), heavy)
    library = [path for path in files(CLIENT) if "cli" not in path.relative_to(CLIENT).parts[0]]
    assert not offenders(library, ("xlmstream_server", "xlmstream_worker"))


def test_server_knows_no_model() -> None:
    assert not offenders(files(SERVER), ("torch", "transformers", "sacremoses", "safetensors", "xlmstream_worker"))


def test_worker_uses_only_the_broker_and_the_public_messages() -> None:
    assert not offenders(
        files(WORKER),
        ("xlmstream_server", "xlmstream", "transformers", "grpc"),
        ("xlmstream_server.broker", "xlmstream.v1", "xlmstream.status", "xlmstream.version"),
    )


def test_tokenizer_processes_need_no_torch() -> None:
    code = "import sys, xlmstream_worker.tokenizing; sys.exit('torch' in sys.modules)"
    paths = os.pathsep.join(str(path.parent) for path in (CLIENT, SERVER, WORKER))
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": paths}, check=False)
    assert done.returncode == 0


def test_library_knows_nothing_of_serving() -> None:
    assert not offenders(
        files(WORKER, "xlm"),
        ("xlmstream", "xlmstream_server", "redis", "grpc", "google", "xlmstream_worker"),
        ("xlmstream_worker.xlm",),
    )


def test_scheduler_is_pure() -> None:
    pure = [WORKER / "scheduler.py", WORKER / "encoder_batches.py"]
    assert not offenders(pure, ("torch", "redis", "numpy", "grpc", "google"))


@pytest.mark.parametrize("module", ["decoder", "cache", "sampling", "encoder", "encoder_batches", "readings"])
def test_engines_know_no_redis_and_no_text(module: str) -> None:
    engine = [path for path in files(WORKER) if path.stem == module or path.parent.name == module]
    assert engine
    assert not offenders(engine, ("redis", "google", "xlmstream", "xlmstream_server", "xlmstream_worker.xlm.tokenizer"))
