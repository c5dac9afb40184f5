"""`python -m examples.word_count`: one instance, until SIGTERM or Ctrl-C."""

import os

from examples.serving import refusing, serve
from examples.word_count.service import OBSERVED_TOPICS, TOPICS

if __name__ == "__main__":
    with refusing("word_count"):
        if not os.environ.get("STREAMS_CREATE_TOPICS"):
            os.environ.setdefault("STREAMS_COMPACTED_TOPICS", ",".join(OBSERVED_TOPICS))
        serve("examples.word_count.service:create_app()", name="word_count", port=9080, topics=TOPICS)
