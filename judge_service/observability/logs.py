"""How our logger writes: a line for people, or one JSON object a line for machines.

    2026-01-31T12:00:00.123Z INFO call ended method=ComparePair code=OK seconds=1.204 …
    {"time": "…", "level": "INFO", "message": "call ended", "method": "ComparePair", …}

What is said of an event stands in fields beside a fixed message: `log.info("call ended",
extra=fields(method=…, code=…))`. Never a conversation's text: a field is an id, a code, a count or
a name from the server's own configuration. An exception's text and the variables of its frames may
quote a conversation, so a record's traceback is not written either.

Only the logger "judge_service" is set up; those of other packages stay as they are.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, Literal, TextIO

LOGGER = "judge_service"

_FIELDS = "judge_service_fields"

Value = str | int | float | bool


def fields(**values: Value) -> dict[str, dict[str, Value]]:
    """What to hand to a logger's `extra`. Seconds are rounded to the microsecond when written."""
    return {_FIELDS: values}


def configure(log_format: Literal["text", "json"], stream: TextIO | None = None) -> None:
    """Write our records from INFO on to `stream` (None: standard error), and to nowhere else.

    Calling it again replaces what it set up.
    """
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonLines() if log_format == "json" else TextLines())
    logger = logging.getLogger(LOGGER)
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, message, then the record's fields."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"time": _utc(record), "level": record.levelname, "message": record.getMessage()}
        return json.dumps(line | _fields(record))


class TextLines(logging.Formatter):
    """Time, level, message and field=value, on one line whatever they hold."""

    def format(self, record: logging.LogRecord) -> str:
        said = [_utc(record), record.levelname, _one_line(record.getMessage())]
        said += [f"{name}={_value(value)}" for name, value in _fields(record).items()]
        return " ".join(said)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    found: dict[str, Value] = getattr(record, _FIELDS, {})
    return {
        name: round(value, 6) if isinstance(value, float) else value
        for name, value in found.items()
    }


def _value(value: Value) -> str:
    """Quoted where it would not read as one word."""
    text = str(value)
    plain = text and text.isprintable() and not any(c in ' "=' for c in text)
    return text if plain else json.dumps(text)


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def _utc(record: logging.LogRecord) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.msecs):03d}Z"
