"""The protos pass lint and the committed stubs are what the protos give."""

import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def test_committed_stubs_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, REPOSITORY / "protos" / "generate.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_buf_lint() -> None:
    buf = shutil.which("buf", path=str(Path(sys.executable).parent))
    assert buf, "buf comes with the dev extra"
    done = subprocess.run([buf, "lint"], cwd=REPOSITORY / "protos", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_public_field_and_rpc_is_documented_or_speaks_for_itself() -> None:
    """A field of an oneof branch or a plain message may stand bare; a service, rpc, enum and message may not."""
    bare = []
    for proto in sorted((REPOSITORY / "protos" / "xlmstream" / "v1").glob("*.proto")):
        lines = proto.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines):
            if line.lstrip().startswith(("rpc ", "service ")) and not lines[number - 1].lstrip().startswith("//"):
                bare.append(f"{proto.name}:{number + 1}: {line.strip()}")
    assert not bare
