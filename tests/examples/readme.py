"""Runs the steps of a README: each `curl` in its blocks of shell, and compares what it prints with what the page says.

    curl -s localhost:9080/state/keyvalue/word-count/zero
    #=> {"key":"zero","value":1}

What was sent is counted a moment later, so a step that only reads is repeated until it prints what is expected, or the
time is over. A step that writes is done once.
"""

import re
import shlex
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PATIENCE_S = 15.0
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ANSWER = "#=> "
WRITING = {"-d", "--data", "--data-binary", "-X", "--request", "-T"}


class Step(NamedTuple):
    """One command and what it prints, without the line's end."""

    command: str
    wanted: str

    @property
    def only_reads(self) -> bool:
        return self.command.startswith("curl ") and not WRITING & set(shlex.split(self.command))


def steps(readme: Path, programs: Collection[str] = ("curl",)) -> Iterator[Step]:
    """Yield the steps of *readme*; a command that starts with anything but *programs* is for the reader alone."""
    for block in BLOCK.findall(readme.read_text()):
        command = ""
        wanted: list[str] = []
        for line in [*block.replace("\\\n", "").splitlines(), "end"]:
            if line.startswith(ANSWER):
                wanted.append(line.removeprefix(ANSWER))
                continue
            if command.split(" ")[0] in programs:
                yield Step(command, "\n".join(wanted))
            command, wanted = line, []


def follow(readme: Path, addresses: Mapping[str, str], programs: Collection[str] = ("curl",)) -> int:
    """Do all steps of *readme*, from the project's root, with each of *addresses* put in the place of its key, in what
    is printed, too; return how many there were. Raises AssertionError at the first that prints something else than the
    page says."""
    found = list(steps(readme, programs))
    for step in found:
        command, wanted = step
        for written, real in addresses.items():
            command, wanted = command.replace(written, real), wanted.replace(written, real)
        give_up_at = time.monotonic() + PATIENCE_S
        while (printed := _printed(command)) != wanted and step.only_reads and time.monotonic() < give_up_at:
            time.sleep(0.05)
        assert printed == wanted, step.command
    return len(found)


def _printed(command: str) -> str:
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    return done.stdout.removesuffix("\n") + done.stderr
