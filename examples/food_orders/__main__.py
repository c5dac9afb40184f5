"""`python -m examples.food_orders`: one instance, until SIGTERM or Ctrl-C."""

from examples.food_orders.service import TOPICS
from examples.serving import refusing, serve

if __name__ == "__main__":
    with refusing("food_orders"):
        serve("examples.food_orders.service:create_app()", name="food_orders", port=2020, topics=TOPICS)
