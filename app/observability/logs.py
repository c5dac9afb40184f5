"""Logging: structlog renders what the whole process logs through the standard library, for people or as JSON.

Never in a log line: request bodies, query strings, e-mails, names, secrets. A line is an event in words plus the
fields of `extra`.
"""

import logging
import logging.config
from contextvars import ContextVar
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

#: The id of the request that the current task or thread works on. The HTTP edge sets it; every line carries it.
REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)

_REPEAT_S = 60.0
_KEY_LENGTH = 20  # of a message that kafka-python has formatted already, with times and addresses in its tail
_MAX_KEYS = 200
# kafka-python reports every reconnect at INFO; gunicorn narrates its own start. Both matter when something is wrong.
_CHATTY = ("kafka", "gunicorn.error", "gunicorn.access", "asyncio")


class _Seldom(logging.Filter):
    """Lets the same message of kafka-python pass once in a while: it repeats four of them each second while a broker
    is away, and the state changes that matter are logged by us."""

    def __init__(self) -> None:
        super().__init__()
        self._passed_at: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether the record is new, or its like has not passed for a minute."""
        if not record.name.startswith("kafka") or record.levelno < logging.WARNING:
            return True
        key = record.name, str(record.msg)[:_KEY_LENGTH]
        if record.created - self._passed_at.get(key, float("-inf")) < _REPEAT_S:
            return False
        if len(self._passed_at) >= _MAX_KEYS:
            self._passed_at.clear()
        self._passed_at[key] = record.created
        return True


def configure(*, log_format: str, log_level: str) -> None:
    """Route all logging of the process to stderr in *log_format* (console or json), from *log_level* on."""
    renderer: list[Processor]
    if log_format == "json":
        renderer = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    else:
        renderer = [structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0, exception_formatter=_plain_trace)]
    formatter = {
        "()": structlog.stdlib.ProcessorFormatter,
        "foreign_pre_chain": _shared_processors(),
        "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
    }
    level = log_level.upper()
    is_debug = level == "DEBUG"
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"line": formatter},
            "filters": {"seldom": {"()": _Seldom}},
            "handlers": {
                "stderr": {
                    "class": "logging.StreamHandler",
                    "formatter": "line",
                    "filters": [] if is_debug else ["seldom"],
                }
            },
            "root": {"level": level, "handlers": ["stderr"]},
            "loggers": {name: {"level": level if is_debug else "WARNING"} for name in _CHATTY},
        }
    )
    logging.captureWarnings(True)


def _shared_processors() -> list[Processor]:
    return [
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.stdlib.ExtraAdder(),
        _add_request_id,
    ]


def _add_request_id(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    request_id = REQUEST_ID.get()
    if request_id is not None:
        event["request_id"] = request_id
    return event


def _plain_trace(stream: Any, exc_info: Any) -> None:
    structlog.dev.plain_traceback(stream, exc_info)
