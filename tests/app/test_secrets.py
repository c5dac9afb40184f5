"""Keys that nobody set: made once, the same for all who should share one, and nobody else's."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.secrets import host_key, node_key
from streams.errors import ConfigError


def test_a_node_keeps_its_key(tmp_path: Path) -> None:
    """Tokens that it gave out are good after a restart; another node's are not."""
    other = tmp_path / "other"
    other.mkdir()
    assert node_key(tmp_path) == node_key(tmp_path) != node_key(other)


def test_nodes_that_start_together_get_one_key(tmp_path: Path) -> None:
    """Whoever is first makes it."""
    environment = {"HOME": str(tmp_path)}
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda number: host_key("app", environment, state_dir=tmp_path / str(number)), range(8)))
    assert len(keys) == 1
    assert len(keys.pop()) == 32
    assert host_key("app", environment, state_dir=tmp_path) != host_key("other", environment, state_dir=tmp_path)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """It would let anybody on the host pass for a node."""
    environment = {"XDG_STATE_HOME": str(tmp_path)}
    host_key("app", environment, state_dir=tmp_path)
    (tmp_path / "profiles" / "app.key").chmod(0o644)
    with pytest.raises(ConfigError, match="PROFILES_CLUSTER_SECRET"):
        host_key("app", environment, state_dir=tmp_path)


@pytest.mark.parametrize("home", ["", "file"])
def test_a_user_without_a_place_for_it_gets_the_key_of_the_node(tmp_path: Path, home: str) -> None:
    """That will do for one node."""
    (tmp_path / "file").touch()
    environment = {"HOME": str(tmp_path / home)} if home else {}
    assert host_key("app", environment, state_dir=tmp_path) == node_key(tmp_path)
