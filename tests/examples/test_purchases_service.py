"""One instance of purchases on the embedded log: lines in, lines out, and what waits survives a restart."""

from pathlib import Path

import pytest
from falcon import testing

from examples.purchases.service import mount, partitions
from examples.purchases.topology import PURCHASES, VERSIONS, Version, enriched
from streams.application import StreamsApplication
from streams.clock import Deadline
from tests.examples.rig import Story, answers, tell, until

DATA = Path(__file__).parents[2] / "examples" / "purchases" / "data"


def run(directory: Path, story: Story, *, version: Version = PURCHASES, wait_ms: int = 50) -> None:
    """Start an instance in *directory*, have *story* told, and stop it."""
    tell(
        enriched(version, wait_ms),
        directory,
        partitions(version),
        lambda app, application, _: mount(app, application, version),
        story,
    )


def lines(topic: str) -> bytes:
    return (DATA / f"{topic}.txt").read_bytes()


async def send(conductor: testing.ASGIConductor, topic: str, body: bytes) -> None:
    found = await conductor.simulate_post(f"/topics/{topic}", body=body)
    assert (found.status_code, found.json) == (200, {"records": body.count(b"\n") or 1})


async def comes_out(conductor: testing.ASGIConductor, topic: str, wanted: bytes) -> None:
    text = sorted(wanted.decode().splitlines())
    await until(conductor, f"/topics/{topic}", lambda found: sorted(found.text.splitlines()) == text)


@pytest.mark.parametrize("version", VERSIONS.values(), ids=lambda each: each.events)
def test_the_tutorials_data_makes_its_output(tmp_path: Path, version: Version) -> None:
    """To the byte, decimals and all, as a multiset; the table's topic is compacted, and its rows can be asked for."""

    async def story(conductor: testing.ASGIConductor, application: StreamsApplication) -> None:
        await send(conductor, version.table, lines(version.table))
        await send(conductor, version.events, lines(version.events))
        await comes_out(conductor, version.output, lines(version.output))
        topics = application.log.describe_topics([version.table, version.events], Deadline.after(5, application.clock))
        assert topics[version.table].config["cleanup.policy"] == "compact"
        assert topics[version.events].config["cleanup.policy"] == "delete"
        assert (await conductor.simulate_get(f"/stores/{version.table}/get/2")).json["value"]["id"] == 2

    run(tmp_path, story, version=version)


def test_poison_is_set_aside_and_a_product_that_comes_late_is_found(tmp_path: Path) -> None:
    """The purchase waits for its product through a restart; what is no purchase is in the quarantine, whole."""

    async def before(conductor: testing.ASGIConductor, application: StreamsApplication) -> None:
        await send(conductor, "achats", b'no purchase\n{"price": 1.00}\n{"id": 2, "price": 13.40}\n')
        await comes_out(conductor, "enrichissement-achats-quarantine", b'no purchase\n{"price": 1.00}\n')
        await until(
            conductor,
            "/stores/waiting/approximate-num-entries",
            lambda found: '"approximate_num_entries":1' in found.text,
        )
        await answers(conductor, "/topics/achats-enrichis", "")
        assert not application.health().failed

    async def after(conductor: testing.ASGIConductor, _: StreamsApplication) -> None:
        await send(conductor, "referentiel", lines("referentiel"))
        await comes_out(conductor, "achats-enrichis", b'{"id":2,"name":"produit2","price":13.40}\n')

    run(tmp_path, before, wait_ms=600_000)
    run(tmp_path, after, wait_ms=600_000)
