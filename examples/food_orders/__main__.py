"""`python -m examples.food_orders`: one instance, until SIGTERM or Ctrl-C."""

import sys

from examples.food_orders.service import TOPICS
from examples.serving import serve
from streams.errors import StreamsError

if __name__ == "__main__":
    try:
        serve("examples.food_orders.service:create_app()", name="food_orders", port=2020, topics=TOPICS)
    except StreamsError as error:
        sys.stderr.write(f"food_orders: {error}\n")
        sys.exit(2)
