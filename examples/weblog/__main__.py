"""`python -m examples.weblog`."""

import os

from examples.serving import refusing, serve
from examples.weblog.service import PARTITIONS, WatchSettings

if __name__ == "__main__":
    with refusing("weblog"):
        WatchSettings.from_env(os.environ)  # what is wrong is said before anything else begins
        serve("examples.weblog.service:create_app()", name="weblog", port=7070, topics=PARTITIONS)
