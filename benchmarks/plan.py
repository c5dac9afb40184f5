"""How much is measured: one value for a whole run and one for a look in between."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes and times. `seconds`: of one run of one load; every load has `runs` of them, and a second to warm up.

    `profiles`: in the store while requests are measured. `small`, `medium`, `large`: numbers of profiles for memory,
    start, and the cost of a request. `kafka_restore`: profiles that are restored from Kafka. `disk_updates`: of
    `disk_keys` keys of the embedded log. `search_profiles`: copied to Elasticsearch; `search_burst`: changes that a
    replicator gets at once.
    """

    runs: int
    seconds: int
    profiles: int
    small: int
    medium: int
    large: int
    kafka_restore: int
    disk_updates: int
    search_profiles: int
    search_burst: int
    disk_keys: int = 1000


FULL = Plan(
    runs=3,
    seconds=2,
    profiles=20_000,
    small=10_000,
    medium=100_000,
    large=1_000_000,
    kafka_restore=200_000,
    disk_updates=1_000_000,
    search_profiles=100_000,
    search_burst=10_000,
)
QUICK = Plan(
    runs=3,
    seconds=1,
    profiles=5_000,
    small=5_000,
    medium=20_000,
    large=50_000,
    kafka_restore=20_000,
    disk_updates=100_000,
    search_profiles=20_000,
    search_burst=2_000,
)
