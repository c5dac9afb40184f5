"""What ends an import or an export before its end. Each is told to the operator, with exit code 2."""

from streams.errors import StreamsError


class BackfillError(StreamsError):
    """The root: the message says what to do. What is done so far stays done."""


class NobodyAnswers(BackfillError):
    """The service, or the log, has not answered for too long. The same command goes on where it was."""


class NotTheService(BackfillError):
    """Somebody answers who is no profile service, or does not let this client import."""


class WrongFiles(BackfillError):
    """The files of this run do not belong together, or cannot be what they are given as."""
