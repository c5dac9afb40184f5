"""`python -m examples.weblog`."""

import os
import sys

from examples.serving import serve
from examples.weblog.service import PARTITIONS, WatchSettings
from streams.errors import StreamsError

if __name__ == "__main__":
    try:
        WatchSettings.from_env(os.environ)  # what is wrong is said before anything else begins
        serve("examples.weblog.service:create_app()", name="weblog", port=7070, topics=PARTITIONS)
    except StreamsError as error:
        sys.stderr.write(f"weblog: {error}\n")
        sys.exit(2)
