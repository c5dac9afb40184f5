"""`python -m examples.word_count.observer`: one observer, until SIGTERM or Ctrl-C."""

import sys

from examples.serving import serve
from examples.word_count.service import OBSERVED_TOPICS
from streams.errors import StreamsError

if __name__ == "__main__":
    try:
        serve(
            "examples.word_count.service:create_observer()",
            name="word_count-observer",
            port=9180,
            topics=OBSERVED_TOPICS,
        )
    except StreamsError as error:
        sys.stderr.write(f"word_count: {error}\n")
        sys.exit(2)
