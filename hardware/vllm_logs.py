"""Logging configuration of vLLM without the dump of requests that it writes when an engine dies.

vLLM logs the failed step's requests and its whole configuration at level ERROR. Version 0.32 mostly
writes the lengths of prompts instead of their tokens, but the rest of the dump (sampling settings,
folders) does not belong in persistent logs either. The traceback and all other records stay.
"""

from __future__ import annotations

import json
import os
import tempfile
from typing import Any

_VARIABLE = "VLLM_LOGGING_CONFIG_PATH"
# Deleted with this process; vLLM and its child processes read them when they start.
_files: list[Any] = []


def environment(level: str = "WARNING") -> dict[str, str]:
    """Environment variables to set, unless the user has, before vLLM is imported.

    level: vLLM's log level, unless VLLM_LOGGING_LEVEL is set.
    """
    if os.environ.get("VLLM_CONFIGURE_LOGGING") == "0":
        return {}
    file = tempfile.NamedTemporaryFile("w", prefix="vllm-logging-", suffix=".json")  # noqa: SIM115
    # vLLM accepts a level in lower case; logging does not.
    level = os.environ.get("VLLM_LOGGING_LEVEL", level).upper()
    json.dump(_configuration(level), file)
    file.flush()
    _files.append(file)
    return {_VARIABLE: file.name}


def _configuration(level: str) -> dict[str, object]:
    """For logging.config.dictConfig: vLLM's own handler, with its dump disabled."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "vllm": {
                "()": "vllm.logging_utils.NewLineFormatter",
                "datefmt": "%m-%d %H:%M:%S",
                "format": "%(levelname)s %(asctime)s [%(filename)s:%(lineno)d] %(message)s",
            }
        },
        "handlers": {
            "vllm": {
                "class": "logging.StreamHandler",
                "formatter": "vllm",
                "level": level,
                "stream": os.environ.get("VLLM_LOGGING_STREAM", "ext://sys.stderr"),
            }
        },
        "loggers": {
            "vllm": {"handlers": ["vllm"], "level": level, "propagate": False},
            "vllm.logging_utils.dump_input": {"level": "CRITICAL"},
        },
    }
