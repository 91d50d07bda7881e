"""Log formats of our logger: text lines for people, or one JSON object per line for machines.

    2026-01-31T12:00:00.123Z INFO call ended method=ComparePair code=OK seconds=1.204 …
    {"time": "…", "level": "INFO", "message": "call ended", "method": "ComparePair", …}

The details of an event are fields beside a fixed message: `log.info("call ended",
extra=fields(method=…, code=…))`. Fields hold ids, codes, counts and names from the server's own
configuration, never text of a conversation. An exception's text and the variables of its frames may
quote a conversation, so tracebacks are not written either.

Only the logger "judge_service" is configured; those of other packages stay as they are.

Whoever reads the log may stop reading, and a full pipe blocks whoever writes to it. So lines go to
a queue, which a thread empties into the file descriptor; while it is full, lines are dropped, and
counted (`dropped_lines`, and a line in the log once it is read again).
"""

from __future__ import annotations

import json
import logging
import os
import queue
import sys
import threading
import time
from contextlib import suppress
from typing import Any, Literal, TextIO

LOGGER = "judge_service"
MOST_QUEUED = 10_000  # lines
_FLUSH_SECONDS = 1.0

_FIELDS = "judge_service_fields"

Value = str | int | float | bool


def fields(**values: Value) -> dict[str, dict[str, Value]]:
    """Structured fields, for a logger's `extra`. Floats are written with 6 decimals."""
    return {_FIELDS: values}


def configure(log_format: Literal["text", "json"], stream: TextIO | None = None) -> None:
    """Write our records, INFO and above, to `stream` only (None: standard error).

    Calling it again replaces the earlier configuration.
    """
    handler = _handler_of(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonLines() if log_format == "json" else TextLines())
    logger = logging.getLogger(LOGGER)
    for earlier in logger.handlers:
        if isinstance(earlier, QueuedLines):
            earlier.close()
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def dropped_lines() -> int:
    """Lines of this process's log that were dropped, because nobody read it."""
    handlers = logging.getLogger(LOGGER).handlers
    return sum(each.dropped for each in handlers if isinstance(each, QueuedLines))


def flush() -> None:
    """Wait until the lines so far are written, at most a second."""
    for handler in logging.getLogger(LOGGER).handlers:
        handler.flush()


class QueuedLines(logging.Handler):
    """Writes lines to a file descriptor from a thread of its own; never blocks who logs.

    dropped: lines that were logged while the queue was full.
    """

    def __init__(self, descriptor: int, most: int = MOST_QUEUED) -> None:
        super().__init__()
        self.dropped = 0
        self._unreported = 0
        self._descriptor = descriptor
        self._queue: queue.Queue[bytes | None] = queue.Queue(most)
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the record's line, or drop it."""
        line = self.format(record) + "\n"
        try:
            if self._unreported:
                self._queue.put_nowait(f"{self._unreported} log lines were dropped\n".encode())
                self._unreported = 0
            self._queue.put_nowait(line.encode("utf-8", "backslashreplace"))
        except queue.Full:
            self.dropped += 1
            self._unreported += 1

    def flush(self) -> None:
        """Wait until what is queued is written, at most a second."""
        end = time.monotonic() + _FLUSH_SECONDS
        with self._queue.all_tasks_done:
            while self._queue.unfinished_tasks and (left := end - time.monotonic()) > 0:
                self._queue.all_tasks_done.wait(left)

    def close(self) -> None:
        """Write what is queued, for at most a second, and end the thread."""
        self.flush()
        with suppress(queue.Full):  # nobody reads: the thread ends with the process
            self._queue.put_nowait(None)
        super().close()

    def _write_all(self) -> None:
        # Not the stream's own write, whose lock would be held for as long as nobody reads.
        while (line := self._queue.get()) is not None:
            with suppress(OSError):  # whoever read the log is gone
                while line:
                    line = line[os.write(self._descriptor, line) :]
            self._queue.task_done()


def _handler_of(stream: TextIO) -> logging.Handler:
    try:
        return QueuedLines(stream.fileno())
    except (OSError, ValueError):  # in memory, or closed
        return logging.StreamHandler(stream)


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
