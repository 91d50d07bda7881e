"""vLLM's log without the dump that it writes when an engine dies: that describes its requests.

vLLM logs the failed step's requests and its whole configuration at level ERROR. In 0.32 it gives
the lengths of prompts in place of their tokens where it can; what else it writes there (sampling
settings, folders) is not for logs that are kept, either. The traceback and all else stay in.
"""

from __future__ import annotations

import json
import os
import tempfile
from typing import Any

_VARIABLE = "VLLM_LOGGING_CONFIG_PATH"
_files: list[
    Any
] = []  # deleted with this process; vLLM and its child processes read them as they start


def environment(level: str = "WARNING") -> dict[str, str]:
    """Environment variables, to be set before vLLM is imported where the user set none.

    level: of what vLLM logs, unless VLLM_LOGGING_LEVEL is set.
    """
    if os.environ.get("VLLM_CONFIGURE_LOGGING") == "0":
        return {}
    file = tempfile.NamedTemporaryFile("w", prefix="vllm-logging-", suffix=".json")  # noqa: SIM115
    # vLLM takes a level in lower case, too; logging does not.
    level = os.environ.get("VLLM_LOGGING_LEVEL", level).upper()
    json.dump(_configuration(level), file)
    file.flush()
    _files.append(file)
    return {_VARIABLE: file.name}


def _configuration(level: str) -> dict[str, object]:
    """For logging.config.dictConfig: vLLM's own handler, and its dump switched off."""
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
