"""A directory that is watched: every line that appears in one of its files is sent, and counts once.

How far each file has been taken is kept by the topology (`OnceEach`), in the same transaction as what was computed of
its lines. So nothing is kept here. After a restart the watcher asks how far it was, and may send again what was already
under way; after a failed or doubtful sending it sends the same lines again.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from examples.weblog.files import FilePosition, Line, Looks, candidate_id, continues, fingerprint, lines_from, looks_of
from streams.errors import StreamsError

logger = logging.getLogger(__name__)

_MAX_ALIKE = 100

#: Tells how far the topology has taken the file of an id; None: nothing of it. Raises StreamsError: not now.
PositionOf = Callable[[str], Awaitable[FilePosition | None]]
#: Sends lines of the file of an id; has returned when all are in the log. Raises StreamsError: perhaps not all are.
Send = Callable[[str, Sequence[Line]], Awaitable[None]]


class DirectoryWatcher:
    """Follows the files of one directory. One event loop; what blocks is done on a thread."""

    def __init__(self, directory: Path, *, pattern: str, source: str, position_of: PositionOf, send: Send) -> None:
        """*pattern*: which files, as a glob. *source*: where they are; files of different sources are different ones,
        also when their lines are equal."""
        self._directory = directory
        self._pattern = pattern
        self._source = source
        self._position_of = position_of
        self._send = send
        self._sent: dict[str, FilePosition] = {}  # by id, of files that are there
        self._known: dict[Path, tuple[Looks, str]] = {}  # what a file looked like when it was read to its end

    async def run(self, poll_interval_s: float) -> None:
        """Look for ever, and again at once as long as there is something new. Ends by cancellation."""
        told: dict[Path, str] = {}
        while True:
            sent, failures = await self.look()
            for path, error in failures.items():
                if told.get(path) != str(error):
                    logger.warning("lines of %s wait until they can be read and sent: %s", path, error)
            told = {path: str(error) for path, error in failures.items()}
            if not sent:
                await asyncio.sleep(poll_interval_s)

    async def look(self) -> tuple[int, Mapping[Path, Exception]]:
        """Send what is new, a bounded part of each file; return how many lines that was, and of which files something
        could not be read or sent: it will be tried again. One of them keeps no other from its turn."""
        sent = 0
        failures: dict[Path, Exception] = {}
        present = _Present(set(), set())
        try:
            paths = await asyncio.to_thread(self._paths)
        except OSError as error:
            return 0, {self._directory: error}
        for path in paths:
            try:
                with await asyncio.to_thread(path.open, "rb") as file:
                    sent += await self._look_at(path, file, present)
            except FileNotFoundError:
                continue  # it was moved: it will be found under its new name
            except (StreamsError, OSError) as error:
                failures[path] = error
        # What is gone is forgotten; should it come back, the topology knows how far it was.
        self._sent = {file_id: position for file_id, position in self._sent.items() if file_id in present.ids}
        self._known = {path: known for path, known in self._known.items() if known[1] in present.ids}
        return sent, failures

    async def _look_at(self, path: Path, file: BinaryIO, present: "_Present") -> int:
        looks = looks_of(file)
        if looks.identity in present.identities:
            return 0  # it was moved while the directory was read, and has two names there
        present.identities.add(looks.identity)
        known = self._known.get(path)
        if known is not None and known[0] == looks and known[1] not in present.ids:
            present.ids.add(known[1])
            return 0
        file_id = await self._identify(path, file, present.ids)
        if file_id is None:
            return 0
        present.ids.add(file_id)
        before = self._sent.get(file_id)
        lines = await asyncio.to_thread(lines_from, file, 0 if before is None else before.end)
        if lines:
            await self._send(file_id, lines)
            self._sent[file_id] = FilePosition(lines[-1].begin, lines[-1].end, fingerprint(lines[-1].data))
        else:
            self._known[path] = looks, file_id
        return len(lines)

    async def _identify(self, path: Path, file: BinaryIO, present: Collection[str]) -> str | None:
        """Return the id of *file*, which is none of *present*; None: its first line is not whole yet."""
        first = await asyncio.to_thread(lines_from, file, 0)
        if not first:
            return None
        for number in range(_MAX_ALIKE):
            file_id = candidate_id(self._source, first[0].data, number)
            if file_id in present:
                continue
            position = self._sent.get(file_id) or await self._position_of(file_id)
            if position is None:
                return file_id
            if await asyncio.to_thread(continues, file, position):
                self._sent[file_id] = position
                return file_id
        raise OSError(f"more than {_MAX_ALIKE} files begin like {path}")

    def _paths(self) -> list[Path]:
        return sorted(path for path in self._directory.glob(self._pattern) if path.is_file())


class _Present(NamedTuple):
    """What was met in one look."""

    identities: set[tuple[int, int]]
    ids: set[str]
