"""The directories of stores: whose they are, and which process uses one. No database here.

Invariant: what is below the state directory is readable by its owner alone, because rows are personal data.
"""

import contextlib
import errno
import os
from pathlib import Path


def make_private(directory: Path) -> None:
    """Make *directory* (its parent must exist), or take it over, for this user alone (mode 0700).

    Raises PermissionError when it belongs to another user: what lies there is read back as the truth.
    """
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.stat()
    if found.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "the directory belongs to another user", str(directory))
    if found.st_mode & 0o077:
        directory.chmod(0o700)


def lock_holder(lock: Path) -> str:
    """Return in words who holds the POSIX lock on *lock*, as far as the system tells (Linux: /proc/locks).

    The file is not opened: closing it again would drop the locks that this process holds on it.
    """
    with contextlib.suppress(OSError):
        inode = lock.stat().st_ino
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if fields[1] == "POSIX" and fields[5].endswith(f":{inode}"):
                return "this process" if int(fields[4]) == os.getpid() else f"process {fields[4]}"
    return "an unknown process"
