"""The bar that a replicator shows on a terminal: percent, rate, lag, and what it waits for."""

import sys
import threading
from types import TracebackType
from typing import Self

from tqdm import tqdm

from app.replication.progress import Progress

_REFRESH_S = 0.25
_REASON_LENGTH = 60


class ProgressBar:
    """Drawn on stderr by a thread of its own, so that it moves also while the replicator waits."""

    def __init__(self, title: str, progress: Progress) -> None:
        self._progress = progress
        self._bar = tqdm(desc=title, unit=" changes", unit_scale=True, file=sys.stderr)
        self._must_stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress-bar", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._must_stop.set()
        self._thread.join()
        self._draw()
        self._bar.close()

    def _run(self) -> None:
        while not self._must_stop.wait(_REFRESH_S):
            self._draw()

    def _draw(self) -> None:
        progress, bar = self._progress, self._bar
        lag = progress.lag_records
        bar.total = progress.changes + lag
        parts = [f"lag {lag}"]
        if progress.refused:
            parts.append(f"{progress.refused} refused")
        if progress.waits_for is not None:
            parts.append(f"waits: {progress.waits_for[:_REASON_LENGTH]}")
        bar.set_postfix_str(", ".join(parts), refresh=False)
        bar.update(progress.changes - bar.n)
        bar.refresh()
