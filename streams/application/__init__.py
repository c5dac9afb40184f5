"""A topology as a running program: `StreamsApplication`, its settings, and a producer for its input."""

from streams.application.application import StreamsApplication
from streams.application.health import ApplicationHealth
from streams.application.settings import StreamsSettings

__all__ = ["ApplicationHealth", "StreamsApplication", "StreamsSettings"]
