"""Something to count: facts about one who needs no introduction. Pure, but for chance, which is handed in."""

from random import Random

FACTS = (
    "Chuck Norris can divide by zero.",
    "Chuck Norris reads a topic from the end to the beginning, and knows the latest first.",
    "Chuck Norris does not poll; records come to him.",
    "Chuck Norris commits before he begins.",
    "No window closes before Chuck Norris has gone through it.",
    "Chuck Norris has no standby.",
    "When Chuck Norris joins a group, the group is rebalanced around him.",
    "Chuck Norris joins two streams with his bare hands.",
    "A late record is one that arrives after Chuck Norris.",
    "Chuck Norris counts the words before they are said.",
)


def draw(random: Random) -> str:
    """Return one of the facts."""
    return random.choice(FACTS)
