"""What the change feed refuses, as values without HTTP. `app/http/errors.py` gives each its status."""

from app.profiles.results import Rejection
from streams.errors import Unavailable

#: The `since` that begins anew, for `restart_from`.
BEGINNING = "0"


class FeedExpired(Rejection):
    """The log need not have any more what came after this place: changes may be missing for good (410). Whoever follows
    empties his copy and begins again at `BEGINNING`."""


class TooManyListeners(Unavailable):
    """As many wait for changes already as the node was set up for."""
