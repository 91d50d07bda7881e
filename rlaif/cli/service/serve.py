"""`rlaif serve` runs a judge server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from constitution import DEFAULT_CONSTITUTION
from constitution.errors import UserError, install_hint

if TYPE_CHECKING:
    from judge_service.engine import Engine
    from judge_service.settings import ServerSettings
    from judge_service.settings_sources import Configured

# Without a bound the engine plans for up to 8192.
DEFAULT_CONTEXT_TOKENS = 4096
STORE_VARIABLE = "RLAIF_STORE"  # shared with other commands; RLAIF_SERVE_STORE goes before it


def serve(
    model: Annotated[
        str | None, typer.Option(help="A short name, a model folder or a hub id.")
    ] = None,
    constitution: Annotated[
        list[str] | None,
        typer.Option(
            "--constitution",
            "-c",
            help="Name or YAML file; repeatable, the first is the default. "
            f"[{DEFAULT_CONSTITUTION}]",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="YAML file of settings; the environment and flags override it."),
    ] = None,
    print_config: Annotated[
        bool,
        typer.Option(
            "--print-config", help="Print every setting with where it comes from, and stop."
        ),
    ] = False,
    probe: Annotated[
        bool,
        typer.Option(
            "--probe",
            help="Ask the server that runs with these settings whether it serves: exit 0 or 1.",
        ),
    ] = False,
    engine: Annotated[
        str | None,
        typer.Option(help="vllm: in this server. openai: behind --openai-url. [vllm]"),
    ] = None,
    openai_url: Annotated[
        str | None,
        typer.Option(help="An OpenAI-compatible model server, as http://127.0.0.1:8000/v1."),
    ] = None,
    openai_tokenizer: Annotated[
        str | None,
        typer.Option(help="Tokenizer of the model at --openai-url. [what --model names]"),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. [127.0.0.1]")] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port to listen on. [50051]")
    ] = None,
    tls_certificate: Annotated[
        Path | None, typer.Option(help="PEM file with the server's certificate and its signers'.")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="PEM file with the certificate's private key.")
    ] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(help="PEM file: callers must show a certificate signed by one of these."),
    ] = None,
    tokens: Annotated[
        Path | None, typer.Option(help="YAML file of the bearer tokens' digests and scopes.")
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option("--insecure", help="Listen beyond this machine without TLS and tokens."),
    ] = False,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Serve Prometheus metrics on this port. [none]"),
    ] = None,
    log_format: Annotated[str | None, typer.Option(help="text or json. [text]")] = None,
    tensor_parallel_size: Annotated[
        int | None, typer.Option(help="GPUs over which vLLM splits the model. [1]")
    ] = None,
    kv_cache_gib: Annotated[
        float | None,
        typer.Option(help="Memory for the engine's KV cache, GiB. [1 on CPU, what is free on GPU]"),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="bfloat16, float16 or float32. [bfloat16 where the hardware multiplies in it, "
            "else float32]"
        ),
    ] = None,
    step_tokens: Annotated[
        int | None,
        typer.Option(
            help="Prompt tokens computed in one step, between which others get their turn. [on a "
            "CPU what takes two seconds]"
        ),
    ] = None,
    max_context_tokens: Annotated[
        int | None, typer.Option(help=f"Longest judge prompt, tokens. [{DEFAULT_CONTEXT_TOKENS}]")
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            help="Keeps what was read, so that nothing is computed twice: a file on a local disk, "
            "or postgresql+psycopg://user@host/database for several machines. "
            f"[{STORE_VARIABLE}, else reads.sqlite in the cache folder]",
        ),
    ] = None,
    no_store: Annotated[
        bool, typer.Option("--no-store", help="Keep what was read for the life of the server only.")
    ] = False,
    allow_inline: Annotated[
        bool,
        typer.Option("--allow-inline", help="Take constitutions that come with a request."),
    ] = False,
    exit_on_stdin_close: Annotated[
        bool, typer.Option("--exit-on-stdin-close", help="Stop when standard input ends.")
    ] = False,
) -> None:
    """Serve judgments over gRPC until SIGTERM or Ctrl-C.

    Every setting can stand in the file of --config, in the environment as RLAIF_SERVE_<NAME>, and
    most as a flag; later ones win. --print-config shows them all. Paths are relative to where the
    server is started.

    A model behind another server, such as `vllm serve` over several GPUs: --engine openai
    --openai-url http://127.0.0.1:8000/v1 --model NAME-IT-HAS-THERE --openai-tokenizer FOLDER.
    Its key, if it wants one, is taken from the environment: RLAIF_OPENAI_API_KEY.
    """
    from judge_service.settings_sources import as_yaml, from_flags

    if store and no_store:
        raise UserError("--store and --no-store exclude each other: leave one out")
    flags = from_flags(
        {
            "model": ("--model", model),
            "constitutions": ("--constitution", tuple(constitution) if constitution else None),
            "engine": ("--engine", engine),
            "openai_url": ("--openai-url", openai_url),
            "openai_tokenizer": ("--openai-tokenizer", openai_tokenizer),
            "host": ("--host", host),
            "port": ("--port", port),
            "tls_certificate": ("--tls-certificate", tls_certificate),
            "tls_key": ("--tls-key", tls_key),
            "tls_client_ca": ("--tls-client-ca", tls_client_ca),
            "tokens": ("--tokens", tokens),
            "insecure": ("--insecure", insecure or None),
            "metrics_port": ("--metrics-port", metrics_port),
            "log_format": ("--log-format", log_format),
            "tensor_parallel_size": ("--tensor-parallel-size", tensor_parallel_size),
            "kv_cache_gib": ("--kv-cache-gib", kv_cache_gib),
            "dtype": ("--dtype", dtype),
            "step_tokens": ("--step-tokens", step_tokens),
            "max_context_tokens": ("--max-context-tokens", max_context_tokens),
            "store": ("--store", store),
            "allow_inline_constitutions": ("--allow-inline", allow_inline or None),
            "exit_on_stdin_close": ("--exit-on-stdin-close", exit_on_stdin_close or None),
        }
    )
    configured = effective(config, os.environ, flags, no_store=no_store)
    if print_config:
        print(as_yaml(configured), end="")
    elif probe:
        from judge_service.server.lifecycle.probe import probe as ask

        ask(configured.settings)
    else:
        _run(configured.settings)


def effective(
    config: Path | None,
    environment: Mapping[str, str],
    flags: Mapping[str, Any],
    *,
    no_store: bool = False,
) -> Configured:
    """The settings of `rlaif serve`, whose defaults are those of a server for one machine.

    Raises SettingsError and ServerStartError (see configuring.py).
    """
    from judge_service.judge.calibration import calibration_files
    from judge_service.settings_sources import Given, configure, from_environment, from_file
    from rlaif.models import catalog as models

    ours = {
        "max_context_tokens": Given(DEFAULT_CONTEXT_TOKENS, "default of rlaif serve"),
        "store": Given(models.cache_folder() / "reads.sqlite", "default of rlaif serve"),
    }
    older = {}
    if kept := environment.get(STORE_VARIABLE):
        older["store"] = Given(kept, f"environment {STORE_VARIABLE}")
    none = {"store": Given(None, "--no-store")} if no_store else {}
    sources = [
        ours,
        from_file(config) if config else {},
        older,
        from_environment(environment),
        {**flags, **none},
    ]
    found = configure(sources)
    if found.settings.engine == "openai":  # the model server knows its own bound
        del ours["max_context_tokens"]
        found = configure(sources)
    if any("calibrations" in source for source in sources):
        return found
    folder = models.cache_folder() / "calibrations"
    fitted = [
        str(f) for law in found.settings.constitutions for f in calibration_files(law, folder)
    ]
    return configure([{"calibrations": Given(tuple(fitted), f"found in {folder}")}, *sources])


def _run(settings: ServerSettings) -> None:
    import asyncio

    from judge_service.engines.caching import CachingEngine
    from judge_service.observability.logs import configure as configure_logs
    from judge_service.observability.metrics import metrics_on
    from judge_service.server.app import serve as run_server
    from judge_service.server.lifecycle.systemd import tell_supervisor
    from judge_service.store import open_store

    metrics = metrics_on(settings.metrics_host, settings.metrics_port)
    engine = CachingEngine(_engine(settings), open_store(settings.store), metrics)
    configure_logs(settings.log_format)
    for file in settings.calibrations:
        print(f"calibrations of {file} apply where they were fitted for this model", flush=True)
    print(f"loading {settings.model}; health says NOT_SERVING until it is warm", flush=True)

    def ready(address: str) -> None:
        print(f"serving on {address}", flush=True)
        tell_supervisor("READY=1")

    asyncio.run(run_server(settings, engine, metrics=metrics, ready=ready))


def _engine(settings: ServerSettings) -> Engine:
    from rlaif.models import catalog as models

    if settings.engine == "openai":
        try:
            from judge_service.engines.http_client import KEY_VARIABLE
            from judge_service.engines.openai import OpenAIEngine
        except ModuleNotFoundError as error:
            raise UserError(
                f"engine openai needs {error.name}; {install_hint('openai')}"
            ) from error

        assert settings.openai_url is not None
        tokenizer = settings.openai_tokenizer or settings.model
        return OpenAIEngine(
            settings.openai_url,
            settings.model,
            tokenizer=models.resolve(tokenizer) if tokenizer in models.KNOWN else tokenizer,
            key=os.environ.get(KEY_VARIABLE, "").strip(),
            max_context_tokens=settings.max_context_tokens,
        )
    from judge_service.engines.vllm import VLLMEngine

    return VLLMEngine(
        models.resolve(settings.model),
        tensor_parallel_size=settings.tensor_parallel_size,
        kv_cache_gib=settings.kv_cache_gib,
        max_context_tokens=settings.max_context_tokens,
        dtype=settings.dtype,
        step_tokens=settings.step_tokens,
    )
