"""For the whole suite: Ctrl-C for the processes that it starts, and the closing line that says what did not run."""

import signal
from collections import Counter

import pytest


def pytest_configure() -> None:
    """A shell starts what runs in its background with SIGINT ignored, and children inherit that: the commands under
    test could not be interrupted."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say it plainly when something was not run: a green suite that left out Kafka proves little."""
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        place = report.longrepr
        reasons[place[2].removeprefix("Skipped: ") if isinstance(place, tuple) else str(place)] += 1
    terminalreporter.section("not run", sep="-")
    for reason, count in reasons.items():
        terminalreporter.write_line(f"{count} tests: {reason}")
    deselected = len(terminalreporter.stats.get("deselected", []))
    if deselected:
        terminalreporter.write_line(f"{deselected} tests were left out by the command's own choice (-m or -k)")
    if not reasons and not deselected:
        terminalreporter.write_line("nothing: every collected test ran")
    terminalreporter.write_line("The long fault runs are apart: make chaos.")
