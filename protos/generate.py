"""Generate the Python stubs from the protos: the only place that calls protoc.

    python protos/generate.py            write the stubs into client/ and server/
    python protos/generate.py --check    exit 1 and name the files that differ from what is committed

The path of a proto is the path of its Python module, so the imports inside the stubs need no rewriting. Stubs are made
with the lowest supported grpcio-tools, whose output every later protobuf runtime imports.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parent
REPOSITORY = PROTOS.parent
# The plugins of this Python's environment, whether or not it is activated.
SCRIPTS = Path(sys.executable).parent
# Where each top-level proto package is generated to, and whether it declares services.
TARGETS = {"xlmstream": ("client", True), "xlmstream_server": ("server", False)}


def generate(package: str, out: Path, *, services: bool) -> None:
    """Write the stubs of one top-level proto package below `out`."""
    files = sorted(str(path.relative_to(PROTOS)) for path in (PROTOS / package).rglob("*.proto"))
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    plugins = [f"--plugin={name}={SCRIPTS / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    arguments = ["protoc", *plugins, f"-I{PROTOS}", f"-I{well_known}", f"--python_out={out}", f"--mypy_out={out}"]
    if services:
        arguments += [f"--grpc_python_out={out}", f"--mypy_grpc_out={out}"]
    if protoc.main([*arguments, *files]) != 0:
        raise SystemExit(f"protoc failed on {package}")
    for stub in out.rglob("*_pb2_grpc.py"):
        if "class " not in stub.read_text(encoding="utf-8"):  # protoc writes one for files without services too
            stub.unlink()
            stub.with_suffix(".pyi").unlink()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the committed stubs instead of writing")
    check = parser.parse_args().check
    stale: list[str] = []
    for package, (target, services) in TARGETS.items():
        with tempfile.TemporaryDirectory() as scratch:
            generate(package, Path(scratch), services=services)
            fresh = {path.relative_to(scratch): path.read_bytes() for path in Path(scratch).rglob("*_pb2*.py*")}
            committed = REPOSITORY / target
            old = {path.relative_to(committed) for path in (committed / package).rglob("*_pb2*.py*")}
            old = {path for path in old if "__pycache__" not in path.parts}
            for path in old - fresh.keys():
                stale.append(f"{target}/{path}")
                if not check:
                    (committed / path).unlink()
            for path, content in fresh.items():
                current = committed / path
                if not current.exists() or current.read_bytes() != content:
                    stale.append(f"{target}/{path}")
                    if not check:
                        current.write_bytes(content)
    for name in stale:
        print(("stale: " if check else "wrote: ") + name)
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
