"""Ways to run the judge model, and the table by which `settings.engine` names them.

vllm.py                  vLLM in this process, on CPU and CUDA
planted.py               rules in place of a model, for experiments (judge_service/planted/)
parent_watchdog.py       ends vLLM's processes when the server is killed
openai.py                a model behind an OpenAI-compatible server
openai_capabilities.py   what such a server can do, found by trying
http_client.py           its HTTP: priorities, retries
priority_semaphore.py    a semaphore with priorities
caching.py               a read-through cache around any engine
tokenizer.py             a Hugging Face tokenizer that keeps template and data apart
model_folder.py          what a model folder must hold
warmup.py                the first prompt of an engine, which proves that it works

To add an engine, write one file here with `from_settings(settings) -> Engine`, and add its line to
ENGINES. torch, transformers and vLLM are imported by these files and nowhere else, and each file
only when its engine is opened.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol

from constitution.errors import UserError, install_hint
from judge_service.engine import Engine


class EngineSettings(Protocol):
    """The part of `judge_service.settings.ServerSettings` that this table reads."""

    @property
    def engine(self) -> str:
        """A key of ENGINES."""
        ...


EngineFactory = Callable[[Any], Engine]  # called with the server's settings
_OURS = ("constitution", "hardware", "judge_service")


def _in_file(name: str, *, needs_extra: str) -> EngineFactory:
    """A factory that imports a file of this package when it is called.

    Raises UserError, naming the extra to install, where a package of others is missing.
    """

    def open_it(settings: EngineSettings) -> Engine:
        try:
            file = import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] in _OURS:
                raise
            raise UserError(
                f"engine {settings.engine} needs the package {error.name}, which is not "
                f"installed; {install_hint(needs_extra)}"
            ) from error
        engine: Engine = file.from_settings(settings)
        return engine

    return open_it


ENGINES: dict[str, EngineFactory] = {
    "vllm": _in_file("vllm", needs_extra="vllm"),
    "openai": _in_file("openai", needs_extra="openai"),
    "planted": _in_file("planted", needs_extra="serve"),
}


def open_engine(settings: EngineSettings) -> Engine:
    """The engine that the settings name, not yet started.

    Raises UserError, naming the extra to install, where a package it needs is missing.
    """
    return ENGINES[settings.engine](settings)
