"""Start a program that does not outlive us: Linux asks it to end (SIGTERM) as soon as we are gone, however we die.

Run as a script, in the child: `leash.py PARENT_PID PROGRAM...` ties itself to its parent and becomes the program.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1  # linux/prctl.h; kept across exec


def leashed(command: Sequence[str]) -> list[str]:
    """`command`, to be started by this process's main thread, tied to its life; as it is where that is not Linux."""
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-P", __file__, str(os.getpid()), *command]


def _become(parent: int, command: list[str]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it died before it could tell us
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606 - our own command line


if __name__ == "__main__":
    _become(int(sys.argv[1]), sys.argv[2:])
