"""The model of claims over random histories: no e-mail has two profiles, none is lost, and each bug is found.

`CLAIMS_SEEDS` sets how many histories are run (default: a few thousand); a failing seed is printed and replays.
"""

import os

import pytest

from tests.simulation.claims import Bug
from tests.simulation.claims_history import History

SEEDS = int(os.environ.get("CLAIMS_SEEDS", "4000"))
BLOCKS = 8

# Where to look for each bug: the rare ones need tens of thousands of histories, so the first that shows them is named.
FIRST_SEED = {
    Bug.OP_OF_THE_SENDER: 84742,
    Bug.OLDER_CLAIM_REPLACES: 63376,
    Bug.NO_BARRIER: 4836,
    Bug.GRANT_OF_OTHER_TENURE: 5055,
    Bug.MARK_DROPPED: 1784,
}
RANGE = 1500


@pytest.mark.parametrize("block", range(BLOCKS))
def test_random_histories_keep_every_promise(block: int) -> None:
    """Never two profiles with one e-mail; at the end each is found by it, a free one can be claimed again."""
    acknowledged = 0
    seeds = range(block * SEEDS // BLOCKS, (block + 1) * SEEDS // BLOCKS)
    for seed in seeds:
        history = History(seed)
        try:
            history.run()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        acknowledged += history.acknowledged
    assert acknowledged > 4 * len(seeds), "too little was acknowledged to mean anything"


@pytest.mark.parametrize("bug", Bug, ids=lambda bug: bug.name.lower())
def test_the_judge_finds_each_bug(bug: Bug) -> None:
    """Every rule is needed: without it some history breaks a promise."""
    first = FIRST_SEED.get(bug, 0)
    for seed in range(first, first + RANGE):
        try:
            History(seed, frozenset({bug})).run()
        except AssertionError:
            History(seed).run()  # and it is the bug that does it
            return
    pytest.fail(f"{bug.name} was not found")
