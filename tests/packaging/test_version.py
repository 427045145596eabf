"""One release, one number: every part tells the same, and so does the build."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from xlmstream.version import __version__

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("module", ["xlmstream_server", "xlmstream_worker"])
def test_the_commands_tell_the_version(module: str) -> None:
    told = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=True)
    assert told.stdout.split() == [module.replace("_", "-"), __version__]


def test_the_build_reads_it_where_the_parts_do() -> None:
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    source = (REPOSITORY / settings["tool"]["hatch"]["version"]["path"]).read_text(encoding="utf-8")
    assert f'__version__ = "{__version__}"' in source
