"""Processes that end with the one that started them, however that one ends."""

import os
import sys

# The child asks the kernel to be killed with its parent and then becomes what the arguments say; a `preexec_fn` would
# do the same, but may deadlock in a process that has threads. Without `prctl` (not Linux) whoever starts it ends it.
_DIE_WITH_PARENT = """
import ctypes, os, sys
prctl = getattr(ctypes.CDLL(None), "prctl", None)
if prctl is not None:
    prctl(1, 9)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


def guard() -> list[str]:
    """Return what to put in front of a command (the absolute path of a program, and its arguments) that shall not
    outlive this process. The kernel counts the thread that starts it as its parent."""
    return [sys.executable, "-S", "-E", "-c", _DIE_WITH_PARENT, str(os.getpid())]
