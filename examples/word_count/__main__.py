"""`python -m examples.word_count`: one instance, until SIGTERM or Ctrl-C."""

import os
import sys

from examples.serving import serve
from examples.word_count.service import OBSERVED_TOPICS, TOPICS
from streams.errors import StreamsError

if __name__ == "__main__":
    try:
        if not os.environ.get("STREAMS_CREATE_TOPICS"):
            os.environ.setdefault("STREAMS_COMPACTED_TOPICS", ",".join(OBSERVED_TOPICS))
        serve("examples.word_count.service:create_app()", name="word_count", port=9080, topics=TOPICS)
    except StreamsError as error:
        sys.stderr.write(f"word_count: {error}\n")
        sys.exit(2)
