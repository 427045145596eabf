"""Run every benchmark, one process each, and keep the figures in benchmarks/results/.

python -m benchmarks                    all of them
python -m benchmarks system tokenizer   some of them
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
NAMES = ("tokenizer", "encoder", "decode", "system", "jobs", "job_chaos")


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; default: all")
    names = arguments.parse_args().names or NAMES
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        arguments.error(f"unknown benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}")
    failed = []
    for name in names:
        print(f"## {name}\n", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(HERE / "results" / f"{name}.json")]
        if subprocess.run(command, cwd=HERE.parent, check=False).returncode != 0:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
