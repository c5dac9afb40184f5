"""`describe`: what a topology reads, computes, keeps and writes."""

import argparse

from streams.cli.loading import add_topology, load_topology

NAME = "describe"
SUMMARY = "print a topology"
EPILOG = """\
example, of a file words.py that has a topology:
  python -m streams describe words:topology --form mermaid
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `describe` takes."""
    add_topology(parser)
    parser.add_argument(
        "--form",
        default="text",
        choices=["text", "mermaid", "graphviz"],
        help="text (as Kafka Streams has it), or a chart",
    )


def run(options: argparse.Namespace) -> int:
    """Print the topology."""
    print(load_topology(options.topology).describe(options.form))
    return 0
