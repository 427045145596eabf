"""`xlmstream-worker`: serve models on one device, taking requests from the queue."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from xlmstream.version import __version__

from xlmstream_worker import observe, options
from xlmstream_worker.config import ConfigError
from xlmstream_worker.ready import is_fresh

EXIT_CONFIG = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the worker until it is told to stop; returns the exit status."""
    parser = _parser()
    flags = parser.parse_args(arguments)
    if flags.check_ready_file is not None:
        return 0 if is_fresh(Path(flags.check_ready_file)) else 1
    try:
        config = options.load(flags, os.environ)
        observe.set_up(config.process.log_level, config.process.log_format)
        # Imported here because PyTorch takes seconds, and a health check runs every few of them.
        from xlmstream_worker.process import run

        run(config)
    except (ConfigError, OSError, ValueError) as error:
        parser.exit(EXIT_CONFIG, f"xlmstream-worker: {error}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="xlmstream-worker",
        description=__doc__,
        epilog="Every option --NAME-X is also the variable XLMSTREAM_WORKER_NAME_X and the key name_x of its table in "
        "the configuration file; flags win over variables, variables over the file. SIGTERM and SIGINT let running "
        "requests finish within --drain-grace-s and hand the rest over; a second signal hands over at once.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument(
        "--check-ready-file",
        metavar="FILE",
        help="do nothing but exit 0 if the worker with this --ready-file serves, 1 if not",
    )
    options.add_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
