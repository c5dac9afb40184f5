"""Arguments, help and exit codes. A command is a module with NAME, SUMMARY, EPILOG, `add_arguments` and `run`."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

from streams.cli import describing, running, serving
from streams.errors import StreamsError

EXIT_CODES = """\
exit codes:
  0  done
  1  the application gave up; its last line says why
  2  not done: bad arguments or settings, a directory that another process holds, a topic that is missing, a log that
     cannot be reached
"""


class Command(Protocol):
    """A module of this package that is a command."""

    NAME: str
    SUMMARY: str
    EPILOG: str

    @property
    def add_arguments(self) -> Callable[[argparse.ArgumentParser], None]: ...

    @property
    def run(self) -> Callable[[argparse.Namespace], int]: ...


COMMANDS: tuple[Command, ...] = (running, serving, describing)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the process' exit code. Default: the process' own arguments."""
    options = build_parser().parse_args(arguments)
    try:
        code: int = options.command(options)
    except (StreamsError, OSError) as error:
        print(f"streams: {error}".replace("\n", "\nstreams: "), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return code


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; each command's function is its default `command`."""
    parser = argparse.ArgumentParser(
        prog="python -m streams",
        description="Stream processing after the model of Kafka Streams.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="command")
    for command in COMMANDS:
        added = subparsers.add_parser(
            command.NAME,
            help=command.SUMMARY,
            description=command.SUMMARY[0].upper() + command.SUMMARY[1:] + ".",
            epilog=command.EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(added)
        added.set_defaults(command=command.run)
    return parser
