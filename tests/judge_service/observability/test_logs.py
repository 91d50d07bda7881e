"""Log formats: one line per record, whatever it contains, as text and as JSON."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator

import pytest

from judge_service.observability.logs import LOGGER, QueuedLines, configure, fields


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    """Our logger, restored after the test."""
    logger = logging.getLogger(LOGGER)
    before = (list(logger.handlers), logger.level, logger.propagate)
    yield logger
    logger.handlers, logger.level, logger.propagate = before


def test_a_json_line_has_the_fields_beside_the_message(log: logging.Logger) -> None:
    out = io.StringIO()
    configure("json", out)
    log.info("call ended", extra=fields(method="ComparePair", code="OK", seconds=1.23456789))
    line = json.loads(out.getvalue())
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "INFO",
        "message": "call ended",
        "method": "ComparePair",
        "code": "OK",
        "seconds": 1.234568,
    }


def test_a_text_line_quotes_values_that_are_not_a_single_word(log: logging.Logger) -> None:
    out = io.StringIO()
    configure("text", out)
    log.info("call ended", extra=fields(request_id='a b="c"', caller="", code="OK"))
    assert out.getvalue().endswith('INFO call ended request_id="a b=\\"c\\"" caller="" code=OK\n')


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_record_with_line_breaks_stays_on_one_line(form: str, log: logging.Logger) -> None:
    out = io.StringIO()
    configure("json" if form == "json" else "text", out)
    hostile = "a\nINFO forged\r\x1b[31m\u2028b"
    log.warning("%s", hostile, extra=fields(name_of=hostile))
    assert len(out.getvalue().splitlines()) == 1
    assert "\x1b" not in out.getvalue()


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_traceback_is_not_written_since_it_may_quote_a_conversation(
    form: str, log: logging.Logger
) -> None:
    out = io.StringIO()
    configure("json" if form == "json" else "text", out)
    try:
        raise ValueError("canary-1")
    except ValueError:
        log.exception("it failed")
    assert "it failed" in out.getvalue()
    assert "canary-1" not in out.getvalue()


def test_only_our_logger_is_configured(log: logging.Logger) -> None:
    root = list(logging.getLogger().handlers)
    configure("text", io.StringIO())
    configure("text", io.StringIO())
    assert logging.getLogger().handlers == root
    assert len(log.handlers) == 1, "configuring again replaces"
    assert not log.propagate


def test_a_log_that_nobody_reads_blocks_nobody_and_its_dropped_lines_are_counted() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, True)
    handler = QueuedLines(writing, most=5)
    logger = logging.Logger("unread")
    logger.addHandler(handler)
    line = "x" * 8192  # a pipe holds eight, the queue five, the thread one
    for _ in range(100):
        logger.info(line)
    assert 80 <= handler.dropped <= 95
    lines = 0
    with os.fdopen(reading, "rb") as log:
        while lines < 5:
            lines += log.readline() == line.encode() + b"\n"
        logger.info("read again")
        while not (report := log.readline()).endswith(b"log lines were dropped\n"):
            pass
        assert int(report.split()[0]) == handler.dropped
        assert log.readline() == b"read again\n"
    handler.close()
    os.close(writing)
