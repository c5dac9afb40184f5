"""What a kind of sink tells `python -m app replicate`: its name, its arguments, and how it is opened.

Each kind has a module of its own here (`replicate_elasticsearch`, `replicate_kafka`) with a `TARGET`, listed in
`app.cli.replicate.TARGETS`; everything else of the command (source, sharing, progress, signals, exit codes) is common.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

from app.config import AppConfig
from app.replication.ports import Sink
from streams.clock import Clock


@dataclass(frozen=True, slots=True)
class Target:
    """One kind of sink.

    `add_arguments` adds what only this kind knows (`--url`, `--topic`); never a credential. `open_sink` makes the sink
    without connecting, and raises ConfigError for arguments or settings that cannot be right. Whether `--rebuild`,
    `--verify` and `--refused` are offered follows from `is_rebuildable` and `is_inspectable`: the sink that is opened
    then is a `Rebuildable`, an `Inspectable`, too.
    """

    name: str
    summary: str
    epilog: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    open_sink: Callable[[AppConfig, argparse.Namespace, Clock], Sink]
    is_rebuildable: bool = False
    is_inspectable: bool = False
