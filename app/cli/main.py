"""Arguments, help and exit codes. The commands themselves are in `app.cli.commands`."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from app.cli import backfill, cluster, commands, follow, replicate
from app.config import AppConfig
from app.observability import logs
from streams.errors import StreamsError

EXIT_CODES = """\
exit codes:
  0  done, and nothing wrong was found
  1  done, and differences were found (verify, topics check), lines were refused (import), or the cluster is not whole
     (cluster)
  2  not done: bad arguments or settings, a directory that another process holds, a log that cannot be reached
"""

_DESCRIPTION = """\
A user-profile service with no database but Kafka.

Settings are environment variables; `python -m app config` shows all of them. Without any, `run` keeps its data in an
embedded log below ./data and listens on http://127.0.0.1:8080.
"""

Command = Callable[[AppConfig, argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] | None = None) -> int:
    """Run one command and return the process' exit code. Defaults: the process' own arguments and environment."""
    options = build_parser().parse_args(arguments)
    command: Command = options.command
    try:
        config = AppConfig.from_env(os.environ if environment is None else environment)
        logs.configure(log_format=config.log_format, log_level=config.log_level)
        return command(config, options)
    except (StreamsError, OSError) as error:
        print(f"{options.prog}: {error}".replace("\n", f"\n{options.prog}: "), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; each command's function is its default `command`."""
    parser = argparse.ArgumentParser(
        prog="profiles",
        description=_DESCRIPTION,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(prog="profiles")
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="command")
    _add(
        subparsers,
        "run",
        commands.run,
        "start a node and serve until SIGTERM or Ctrl-C",
        "example:\n  PORT=8081 PROFILES_STATE_DIR=/var/lib/profiles python -m app run",
        has_json=False,
    )
    _add(
        subparsers,
        "config",
        commands.show_config,
        "print every setting in force and where it comes from; secrets are masked",
        "example:\n  PORT=8081 python -m app config | grep PORT",
    )
    topics = _add(
        subparsers,
        "topics",
        None,
        "create or check the topics of the log",
        "example:\n  PROFILES_BOOTSTRAP_SERVERS=localhost:9092 python -m app topics check",
    )
    topic_commands = topics.add_subparsers(title="commands", required=True, metavar="command")
    _add(
        topic_commands, "create", commands.create_topics, "create the topics that are missing, and check the others", ""
    )
    _add(topic_commands, "check", commands.check_topics, "say how the topics differ from what they must be", "")
    _add(
        subparsers,
        "verify",
        commands.verify,
        "fold the log and compare it with this node's stores, row by row; the node must be stopped",
        "example:\n  python -m app verify --json | jq .differences",
    )
    rebuild = _add(
        subparsers,
        "rebuild",
        commands.rebuild,
        "delete this node's stores; the next start restores them from the log. The node must be stopped",
        "The log is not touched, so nothing is lost.\n\nexample:\n  python -m app rebuild --task 3",
    )
    rebuild.add_argument("--task", type=int, action="append", metavar="N", help="only this partition; may be repeated")
    _add_replicate(subparsers)
    _add_backfill(subparsers)
    _add_questions(subparsers)
    _add_follow(subparsers)
    return parser


def _add_follow(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _add(
        subparsers,
        "follow",
        follow.follow,
        "print the changes of profiles as they happen, until Ctrl-C; then the place to go on from",
        "Asks running nodes, and goes on at the next one when one is gone. With --json a line is a JSON document.\n\n"
        "example:\n  python -m app follow --since 0 --docs --url http://node-1:8080 --url http://node-2:8080",
    )
    follow.add_arguments(parser)


def _add_backfill(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands that take all profiles out and bring them in."""
    parser = _add(
        subparsers,
        "export",
        backfill.export_profiles,
        "write all profiles to a file of JSON lines, with the positions in the log up to which they are complete",
        "Reads Kafka; on the embedded log that of the stopped node, or the change feed of the running one. Positions\n"
        "are in FILE.positions.\n\nexample:\n  python -m app export profiles.jsonl.gz",
    )
    backfill.add_export_arguments(parser)
    parser = _add(
        subparsers,
        "import",
        backfill.import_profiles,
        "bring the profiles of a file of JSON lines into a running service; the same command again goes on, or changes "
        "nothing",
        "A line has username and email, or is one of an export. How far it is stands in FILE.progress.\n\n"
        "example:\n  python -m app import users.jsonl --errors rejected.jsonl",
    )
    backfill.add_import_arguments(parser)


def _add_replicate(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command that copies the profiles, with one command below it for each kind of sink."""
    parent = _add(
        subparsers,
        "replicate",
        None,
        "copy the profiles to another system, and follow their changes until SIGTERM or Ctrl-C",
        "example:\n  python -m app replicate elasticsearch --url http://127.0.0.1:9200 --index profiles",
    )
    kinds = parent.add_subparsers(title="commands", required=True, metavar="command")
    for target in replicate.TARGETS:
        replicate.add_arguments(_add(kinds, target.name, replicate.replicate, target.summary, target.epilog), target)


def _add_questions(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands that ask a running node."""
    members = _add(
        subparsers,
        "cluster",
        cluster.show_cluster,
        "print the nodes, who owns and who follows which partition, and how far behind",
        "Asks a running node; exit code 1 when a partition has no owner or a node does not answer.\n\n"
        "example:\n  python -m app cluster --url http://node-2:8080",
    )
    members.add_argument("--url", metavar="URL", help="of the node to ask (default: the one of these settings)")
    quarantine = _add(
        subparsers,
        "quarantine",
        commands.quarantine,
        "list records that could not be processed: place and reason, never their content",
        "Asks the node that runs on this state directory, or reads its stores when none runs.\n\n"
        "example:\n  python -m app quarantine --limit 10",
    )
    quarantine.add_argument("--limit", type=_limit, default=100, metavar="N", help="1 to 1000 (default: 100)")


def _add(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    command: Command | None,
    summary: str,
    epilog: str,
    *,
    has_json: bool = True,
) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if command is not None:
        parser.set_defaults(command=command)
        if has_json:
            parser.add_argument("--json", action="store_true", help="print one JSON document for machines")
    return parser


def _limit(text: str) -> int:
    limit = int(text)
    if not 1 <= limit <= 1000:
        raise argparse.ArgumentTypeError("must be from 1 to 1000")
    return limit
