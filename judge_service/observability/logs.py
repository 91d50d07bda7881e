"""Log formats of our logger: text lines for people, or one JSON object per line for machines.

    2026-01-31T12:00:00.123Z INFO call ended method=ComparePair code=OK seconds=1.204 …
    {"time": "…", "level": "INFO", "message": "call ended", "method": "ComparePair", …}

The details of an event are fields beside a fixed message: `log.info("call ended",
extra=fields(method=…, code=…))`. Fields hold ids, codes, counts and names from the server's own
configuration, never text of a conversation. An exception's text and the variables of its frames may
quote a conversation, so tracebacks are not written either.

Only the logger "judge_service" is configured; those of other packages stay as they are.
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
    """Structured fields, for a logger's `extra`. Floats are written with 6 decimals."""
    return {_FIELDS: values}


def configure(log_format: Literal["text", "json"], stream: TextIO | None = None) -> None:
    """Write our records, INFO and above, to `stream` only (None: standard error).

    Calling it again replaces the earlier configuration.
    """
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonLines() if log_format == "json" else TextLines())
    logger = logging.getLogger(LOGGER)
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


class JsonLines(logging.Formatter):
    """One JSON object per line: time, level, message, then the record's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON, without its traceback."""
        line = {"time": _utc(record), "level": record.levelname, "message": record.getMessage()}
        return json.dumps(line | _fields(record))


class TextLines(logging.Formatter):
    """Time, level, message and field=value, always on a single line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of text, without its traceback; control characters are escaped."""
        parts = [_utc(record), record.levelname, _one_line(record.getMessage())]
        parts += [f"{name}={_value(value)}" for name, value in _fields(record).items()]
        return " ".join(parts)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    values: dict[str, Value] = getattr(record, _FIELDS, {})
    return {
        name: round(value, 6) if isinstance(value, float) else value
        for name, value in values.items()
    }


def _value(value: Value) -> str:
    """A field's value as one word; quoted when it has spaces, quotes or control characters."""
    text = str(value)
    plain = text and text.isprintable() and not any(c in ' "=' for c in text)
    return text if plain else json.dumps(text)


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def _utc(record: logging.LogRecord) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.msecs):03d}Z"
