"""The `xlmstream` command: arguments in, a command run, an exit code out."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from xlmstream.cli.arguments import parser
from xlmstream.cli.failures import WRONG_INPUT, explain
from xlmstream.errors import XlmstreamError
from xlmstream.files import FileError

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. Raises SystemExit where argparse does: wrong usage, --help."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = parser(argv).parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except XlmstreamError as error:
        code, message = explain(error, arguments.address)
        print(f"xlmstream: {message}", file=sys.stderr)
    except FileError as error:
        print(f"xlmstream: {error}", file=sys.stderr)
        code = WRONG_INPUT
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:  # whoever read our output has enough; nothing may be written at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    return code
