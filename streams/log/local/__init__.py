"""The embedded log, for one node: RocksDB in one directory, behind the port of `streams.log.base`."""

from streams.log.local.log import LocalLog

__all__ = ["LocalLog"]
