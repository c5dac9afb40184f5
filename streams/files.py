"""Small files that must be whole or absent, whenever the machine fails."""

import os
from pathlib import Path


def write_durably(path: Path, text: str) -> None:
    """Replace *path* by *text*, readable by its owner alone; on disk when this returns. Raises OSError.

    Written aside, synced, renamed, and the directory synced: a rename that is not synced may be lost with the power.
    """
    aside = path.with_name(path.name + ".new")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, text.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    aside.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
