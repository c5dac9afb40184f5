"""The command line: `python -m app`, also installed as `profiles`. Reads arguments and prints; decides nothing."""

from app.cli.main import main

__all__ = ["main"]
