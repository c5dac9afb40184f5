"""What the tests of the examples share: an application on the embedded log with routes, asked without a server."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import falcon.asgi
from falcon import testing

from streams.application import StreamsApplication, StreamsSettings
from streams.http.interactive import InteractiveQueries
from streams.topology.subtopology import ProcessorTopology

PATIENCE_S = 20.0

Mount = Callable[[falcon.asgi.App[Any, Any], StreamsApplication, InteractiveQueries], object]
Story = Callable[[testing.ASGIConductor, StreamsApplication], Awaitable[None]]


def tell(topology: ProcessorTopology, directory: Path, topics: Mapping[str, int], mount: Mount, story: Story) -> None:
    """Start an instance of *topology* with its state in *directory*, have *story* told, and stop it. *topics* are made
    with their numbers of partitions; what cannot be read or processed is set aside, as the examples do."""
    settings = StreamsSettings(
        data_dir=directory,
        create_topics=topics,
        on_deserialization_error="quarantine",
        on_processing_error="quarantine",
    )

    async def told(application: StreamsApplication) -> None:
        async with asked(application, mount) as conductor:
            await story(conductor, application)

    with StreamsApplication(topology, settings) as application:
        application.wait_ready(PATIENCE_S)
        asyncio.run(told(application))


@asynccontextmanager
async def asked(application: StreamsApplication, mount: Mount) -> AsyncIterator[testing.ASGIConductor]:
    """Yield what asks the routes that *mount* adds, and the library's; *application* was started."""
    queries = InteractiveQueries(application, is_alone=True)
    app: falcon.asgi.App[Any, Any] = falcon.asgi.App()
    queries.mount(app)
    mount(app, application, queries)
    async with testing.ASGIConductor(app) as conductor:
        yield conductor


async def until(conductor: testing.ASGIConductor, path: str, wanted: Callable[[testing.Result], bool]) -> str:
    """Ask for *path* until the answer is as *wanted*, and return it. Raises AssertionError when it does not come."""
    give_up_at = asyncio.get_running_loop().time() + PATIENCE_S
    while True:
        found = await conductor.simulate_get(path)
        if wanted(found):
            return str(found.text)
        assert asyncio.get_running_loop().time() < give_up_at, (path, found.status_code, found.text)
        await asyncio.sleep(0.02)


async def answers(conductor: testing.ASGIConductor, path: str, text: str) -> None:
    """Return when the answer for *path* is *text*. Raises AssertionError when it does not come."""
    await until(conductor, path, lambda found: found.status_code == 200 and found.text == text)
