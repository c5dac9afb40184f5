"""Log lines: JSON for machines, the request's id, quiet libraries."""

import json
import logging

import pytest

from app.observability import logs


@pytest.fixture(autouse=True)
def restored_logging() -> object:
    """Leave the handlers of the test runner as they were."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before
    logging.captureWarnings(False)


def test_a_json_line_holds_the_event_its_fields_and_the_request_id(capsys: pytest.CaptureFixture[str]) -> None:
    """One object for each line."""
    logs.configure(log_format="json", log_level="info")
    token = logs.REQUEST_ID.set("r-1")
    logging.getLogger("streams.x").info("task %s moved", 3, extra={"partition": 3})
    logs.REQUEST_ID.reset(token)
    line = json.loads(capsys.readouterr().err)
    assert line["event"] == "task 3 moved"
    assert (line["partition"], line["request_id"], line["level"]) == (3, "r-1", "info")


def test_a_trace_stays_on_its_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A collector reads line by line."""
    logs.configure(log_format="json", log_level="info")
    try:
        int("no")
    except ValueError:
        logging.getLogger("app").exception("failed")
    out = capsys.readouterr().err
    assert out.count("\n") == 1
    assert "ValueError: invalid literal" in json.loads(out)["exception"]


def test_a_console_line_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """Event and fields, no colour codes."""
    logs.configure(log_format="console", log_level="info")
    logging.getLogger("app").warning("disk is low", extra={"free_bytes": 5})
    out = capsys.readouterr().err
    assert "disk is low" in out
    assert "free_bytes=5" in out
    assert "\x1b" not in out


def test_a_broker_that_is_away_does_not_flood_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    """The same complaint of kafka-python passes once a minute; ours always do."""
    logs.configure(log_format="json", log_level="info")
    for number in range(20):
        logging.getLogger("kafka.net").error("Connection failed: after %s", number)
        logging.getLogger("streams.log").error("the log is away")
    lines = capsys.readouterr().err
    assert lines.count("Connection failed") == 1
    assert lines.count("the log is away") == 20


def test_libraries_are_quiet_unless_debugging(capsys: pytest.CaptureFixture[str]) -> None:
    """kafka-python tells every reconnect at INFO."""
    logs.configure(log_format="json", log_level="info")
    logging.getLogger("kafka.conn").info("reconnected")
    assert capsys.readouterr().err == ""
    logs.configure(log_format="json", log_level="debug")
    logging.getLogger("kafka.conn").info("reconnected")
    assert "reconnected" in capsys.readouterr().err
