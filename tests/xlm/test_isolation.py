"""The library stands alone: what importing it pulls in, and that its names are all there."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from xlmstream_worker import xlm

PACKAGE = Path(xlm.__file__).parent


def modules_after(statement: str) -> set[str]:
    """The top-level modules a fresh interpreter holds after `statement`."""
    code = f"{statement}; import sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.split())


def test_the_library_needs_no_server_no_broker_and_no_transformers():
    loaded = modules_after("from xlmstream_worker.xlm import *")
    assert not loaded & {"transformers", "xlmstream", "xlmstream_server", "grpc", "redis", "google"}
    assert "torch" in loaded


def test_tokenising_needs_no_torch():
    assert "torch" not in modules_after("from xlmstream_worker.xlm import XLMTokenizer")


def test_the_library_imports_nothing_of_the_worker():
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level <= 1, file
                module = node.module or ""
                assert not module.startswith("xlmstream") or module.startswith("xlmstream_worker.xlm"), file


def test_every_public_name_resolves_and_is_declared_for_type_checkers():
    declared = {
        alias.asname
        for node in ast.walk(ast.parse(Path(xlm.__file__).read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    }
    assert declared == set(xlm.__all__)
    assert all(getattr(xlm, name).__name__ == name for name in xlm.__all__)
    with pytest.raises(AttributeError, match="XLMTokeniser"):
        _ = xlm.XLMTokeniser
