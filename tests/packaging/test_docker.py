"""No container engine is needed to keep the images honest: the files are linted and their commands exist."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DOCKER = Path(__file__).resolve().parents[2] / "docker"
BIN = str(Path(sys.executable).parent)


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["server.Dockerfile", "worker.Dockerfile"])
def test_dockerfile_lint(name: str) -> None:
    hadolint = shutil.which("hadolint", path=BIN)
    assert hadolint, "hadolint comes with the dev extra"
    run(hadolint, DOCKER / name)


def test_compose_matches_the_compose_specification() -> None:
    run(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", DOCKER / "compose.yaml")


@pytest.mark.parametrize(
    ("module", "flags"),
    [
        ("xlmstream_server", ["--broker", "--listen"]),
        ("xlmstream_worker", ["--broker", "--device", "--ready-file", "--check-ready-file"]),
        ("xlmstream.cli", ["health"]),
    ],
)
def test_commands_in_the_images_have_the_flags_used(module: str, flags: list[str]) -> None:
    text = run(sys.executable, "-m", module, "--help")
    assert not [flag for flag in flags if flag not in text]
