"""Log formats: one line per record, whatever it contains, as text and as JSON."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from judge_service.observability.logs import LOGGER, configure, fields


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
