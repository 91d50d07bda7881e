"""`rlaif serve` runs a judge server, with the defaults of one machine and models by short name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from rlaif.cli import complete
from rlaif.cli.commands import RlaifCommand

if TYPE_CHECKING:
    from judge_service.settings import ServerSettings
    from judge_service.settings_sources import Configured, Source

DEFAULT_CONTEXT_TOKENS = 4096  # bounds the memory of the KV cache; engines plan for up to 8192
STORE_VARIABLE = "RLAIF_STORE"  # shared with other commands; RLAIF_SERVE_STORE takes precedence
ALL_ARGUMENTS = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "allow_interspersed_args": False,
}
"""Context settings by which Typer leaves every flag to the server's own parser."""

DESCRIPTION = """
Serve judgments over gRPC until SIGTERM or Ctrl-C.

Every setting can be set in the file of --config, in the environment as RLAIF_SERVE_<NAME>, and as a
flag; later ones win. --print-config shows them all. Paths are relative to the working directory.
--model also takes a short name that `rlaif models list` shows.

A model behind another server, such as `vllm serve` over several GPUs: --engine openai --openai-url
http://127.0.0.1:8000/v1 --model NAME-IT-HAS-THERE --openai-tokenizer FOLDER. Its key, if it needs
one, is read from the environment: RLAIF_OPENAI_API_KEY.
"""
EXAMPLES = """
Examples:
  rlaif serve --model qwen2.5-coder-1.5b
  rlaif serve --config serve.yaml --print-config
  rlaif serve --model judge-1 --engine openai
      --openai-url http://127.0.0.1:8000/v1 --openai-tokenizer MODEL
"""
SHOWN_DEFAULTS = {
    "max_context_tokens": f"{DEFAULT_CONTEXT_TOKENS}; with another engine what that has",
    "store": f"{STORE_VARIABLE}, else reads.sqlite in the cache folder",
    "calibrations": "those fitted for the constitutions, in the cache folder",
}


class ServeCommand(RlaifCommand):
    """Completes the flags that the server's own parser reads, and their values."""

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Words for the shell, of type `Completed`."""
        return list(complete.serve(ctx.args, incomplete))


def serve(context: typer.Context) -> None:
    """Serve judgments over gRPC until SIGTERM or Ctrl-C."""
    from judge_service.settings_flags import from_arguments, server_parser
    from judge_service.settings_sources import as_yaml

    parser = server_parser("rlaif serve", DESCRIPTION, EXAMPLES, SHOWN_DEFAULTS)
    arguments = parser.parse_args(context.args)
    configured = effective(arguments.config, os.environ, from_arguments(arguments))
    if arguments.print_config:
        print(as_yaml(configured), end="")
    elif arguments.probe:
        from judge_service.server.lifecycle.probe import probe

        probe(configured.settings)
    else:
        from judge_service.server.run import run

        run(with_model_folders(configured.settings))


def effective(config: Path | None, environment: Mapping[str, str], flags: Source) -> Configured:
    """The settings of `rlaif serve`, whose defaults are those of a server for one machine.

    Raises SettingsError and ServerStartError (see settings_sources.py).
    """
    from judge_service.judge.calibration import calibration_files
    from judge_service.settings_sources import Given, configure, from_environment, from_file
    from rlaif.models import catalog

    ours = {
        "max_context_tokens": Given(DEFAULT_CONTEXT_TOKENS, "default of rlaif serve"),
        "store": Given(catalog.cache_folder() / "reads.sqlite", "default of rlaif serve"),
    }
    shared = {}
    if place := environment.get(STORE_VARIABLE):
        shared["store"] = Given(place, f"environment {STORE_VARIABLE}")
    sources = [
        ours,
        from_file(config) if config else {},
        shared,
        from_environment(environment),
        flags,
    ]
    configured = configure(sources)
    if configured.settings.engine in ("openai", "planted"):  # which know their own limit
        del ours["max_context_tokens"]
        configured = configure(sources)
    if any("calibrations" in source for source in sources):
        return configured
    # Which calibrations apply depends on the constitutions, which only now are known.
    folder = catalog.cache_folder() / "calibrations"
    fitted = [
        str(file)
        for constitution in configured.settings.constitutions
        for file in calibration_files(constitution, folder)
    ]
    return configure([{"calibrations": Given(tuple(fitted), f"found in {folder}")}, *sources])


def with_model_folders(settings: ServerSettings) -> ServerSettings:
    """The same settings, with folders in place of the short names of rlaif's models.

    Raises ModelError for a model that vLLM cannot be given.
    """
    from rlaif.models import catalog

    if settings.engine == "vllm":
        return settings.model_copy(update={"model": catalog.resolve(settings.model)})
    field = "openai_tokenizer" if settings.engine == "openai" else "model"
    name = getattr(settings, field) or settings.model
    if name not in catalog.KNOWN:
        return settings
    return settings.model_copy(update={field: catalog.resolve(name)})
