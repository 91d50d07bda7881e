"""`rlaif serve` runs a judge server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from constitution.errors import UserError


def serve(
    model: Annotated[str, typer.Option(help="A short name, a model folder or a hub id.")],
    constitution: Annotated[
        list[str] | None,
        typer.Option("--constitution", "-c", help="Name or YAML file; repeatable. Default: hhh."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 50051,
    kv_cache_gib: Annotated[
        float, typer.Option(min=0.1, help="Memory for the engine's KV cache, GiB (CPU only).")
    ] = 1.0,
    max_context_tokens: Annotated[
        int, typer.Option(min=64, help="Longest judge prompt, tokens.")
    ] = 4096,
    store: Annotated[
        Path | None,
        typer.Option(
            envvar="RLAIF_STORE",
            help="File that keeps what was read, so that nothing is computed twice; on a local "
            "disk. Default: reads.sqlite in the cache folder.",
        ),
    ] = None,
    no_store: Annotated[
        bool, typer.Option("--no-store", help="Keep what was read for the life of the server only.")
    ] = False,
    allow_inline: Annotated[
        bool,
        typer.Option("--allow-inline", help="Take constitutions that come with a request."),
    ] = False,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow listening beyond this machine without TLS.")
    ] = False,
    exit_on_stdin_close: Annotated[
        bool, typer.Option("--exit-on-stdin-close", help="Stop when standard input ends.")
    ] = False,
) -> None:
    """Serve judgments over gRPC until SIGTERM or Ctrl-C."""
    import asyncio
    import logging

    from judge_service.calibration import calibration_files
    from judge_service.engines.vllm import VLLMEngine
    from judge_service.server import serve as run_server
    from judge_service.settings import ServerSettings
    from judge_service.store import ReadStore
    from judge_service.storing import StoringEngine
    from rlaif import models

    if store and no_store:
        raise UserError("--store and --no-store exclude each other: leave one out")
    laws = tuple(constitution or ["hhh"])
    folder = models.cache_folder() / "calibrations"
    fitted = [file for law in laws for file in calibration_files(law, folder)]
    settings = ServerSettings(
        model=models.resolve(model),
        constitutions=laws,
        allow_inline_constitutions=allow_inline,
        calibrations=tuple(map(str, fitted)),
        host=host,
        port=port,
        kv_cache_gib=kv_cache_gib,
        max_context_tokens=max_context_tokens,
        store=None if no_store else store or models.cache_folder() / "reads.sqlite",
        insecure=insecure,
        exit_on_stdin_close=exit_on_stdin_close,
    )
    engine = StoringEngine(
        VLLMEngine(
            settings.model,
            kv_cache_gib=settings.kv_cache_gib,
            max_context_tokens=settings.max_context_tokens,
        ),
        ReadStore(settings.store),
    )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for file in fitted:
        print(f"calibrations of {file} apply where they were fitted for this model", flush=True)
    print(f"loading {model}; health says NOT_SERVING until it is warm", flush=True)
    asyncio.run(
        run_server(settings, engine, ready=lambda at: print(f"serving on {at}", flush=True))
    )
