"""The keys that nobody set: of this node alone, or of all nodes that this user runs on this host.

A cluster without `PROFILES_CLUSTER_SECRET` has all its nodes on loopback, so they share the host, and a file that only
their user can read keeps them apart from everybody else who reaches a port.
"""

import contextlib
import logging
import os
import uuid
from collections.abc import Mapping
from pathlib import Path

from streams.errors import ConfigError
from streams.files import write_durably

logger = logging.getLogger(__name__)

_BYTES = 32


def node_key(state_dir: Path) -> bytes:
    """Return the key of the node on *state_dir*, making it once."""
    path = state_dir / "token-key"
    if path.exists() and (text := path.read_text().strip()):
        return bytes.fromhex(text)
    key = os.urandom(_BYTES)
    write_durably(path, key.hex())
    return key


def host_key(application_id: str, environment: Mapping[str, str], *, state_dir: Path) -> bytes:
    """Return the key of all nodes of *application_id* that this user runs on this host, making it once.

    A user without a place for it gets the key of the node on *state_dir*: that will do for one node, and a second one
    is refused for having another. Raises ConfigError when others could read or replace the key.
    """
    home = environment.get("HOME")
    base = environment.get("XDG_STATE_HOME") or (home and f"{home}/.local/state")
    if not base:
        return node_key(state_dir)
    directory = Path(base) / "profiles"
    path = directory / f"{application_id}.key"
    try:
        return _shared(directory, path)
    except (OSError, ValueError) as error:
        logger.warning("no key for several nodes", extra={"path": str(path), "reason": str(error)})
        return node_key(state_dir)


def _shared(directory: Path, path: Path) -> bytes:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        aside = directory / f".{uuid.uuid4().hex}"
        write_durably(aside, os.urandom(_BYTES).hex())
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(aside)  # whole or not at all, and the first of several nodes wins
        aside.unlink()
    status = path.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise ConfigError(f"{path} can be read or changed by others; set PROFILES_CLUSTER_SECRET, or remove it")
    return bytes.fromhex(path.read_text())
