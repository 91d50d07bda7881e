"""`rlaif serve` runs a judge server; `rlaif judge …` asks one."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from constitution.errors import UserError
from rlaif.commands import (
    DEFAULT_SERVER,
    AsJson,
    ConstitutionName,
    SamplePrinciples,
    Seed,
    Server,
    output,
)

app = typer.Typer(help="Ask a running judge server.", no_args_is_help=True)

Text = Annotated[str, typer.Argument(help="The text, or @FILE to read it from a file.")]


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

    from judge_service.engines.vllm import VLLMEngine
    from judge_service.server import serve as run_server
    from judge_service.settings import ServerSettings
    from rlaif import models

    settings = ServerSettings(
        model=models.resolve(model),
        constitutions=tuple(constitution or ["hhh"]),
        host=host,
        port=port,
        kv_cache_gib=kv_cache_gib,
        max_context_tokens=max_context_tokens,
        insecure=insecure,
        exit_on_stdin_close=exit_on_stdin_close,
    )
    engine = VLLMEngine(
        settings.model,
        kv_cache_gib=settings.kv_cache_gib,
        max_context_tokens=settings.max_context_tokens,
    )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    print(f"loading {model}; health says NOT_SERVING until it is warm", flush=True)
    asyncio.run(
        run_server(settings, engine, ready=lambda at: print(f"serving on {at}", flush=True))
    )


@app.command(
    epilog='Example: rlaif judge compare "My parcel is late" "Sorry! I will call the depot and '
    'write to you by noon." "Someone will look into it."'
)
def compare(
    prompt: Text,
    response_a: Text,
    response_b: Text,
    constitution: ConstitutionName = "hhh",
    server: Server = DEFAULT_SERVER,
    sample_principles: SamplePrinciples = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Which of two responses is better, how surely, and by which principles."""
    from rich.table import Table

    from judge_service.client import JudgeClient
    from judge_service.judgment import JudgeOptions, Unjudged

    with JudgeClient(server) as client:
        found = client.compare(
            _text(prompt),
            _text(response_a),
            _text(response_b),
            constitution=constitution,
            options=JudgeOptions(sample_principles=sample_principles, seed=seed),
        )
    if as_json:
        print(json.dumps(asdict(found), ensure_ascii=False))
        return
    if isinstance(found, Unjudged):
        raise UserError(f"no judgment ({found.reason.value}): {found.detail}")
    table = Table("principle", "trait", "P(A better)", "order gap")
    for vote in found.votes:
        gap = "-" if vote.order_gap is None else f"{vote.order_gap:.2f}"
        table.add_row(vote.principle_id, vote.trait, f"{vote.prob_a:.3f}", gap)
    out = output()
    out.print(table)
    traits = ", ".join(f"{trait} {prob:.2f}" for trait, prob in found.trait_probs.items())
    out.print(f"[bold]{found.verdict.value}[/bold]  P(A better) = {found.prob_a:.3f}  ({traits})")
    out.print(
        f"{found.usage.reads} reads, {found.usage.prompt_tokens} prompt tokens "
        f"({found.usage.cached_tokens} cached), {found.seconds:.1f} s",
        highlight=False,
    )


@app.command(epilog='Example: rlaif judge rank "Name a fruit" "An apple." "A stone." "Pears!"')
def rank(
    prompt: Text,
    candidates: Annotated[list[str], typer.Argument(help="Two or more texts, or @FILEs.")],
    constitution: ConstitutionName = "hhh",
    server: Server = DEFAULT_SERVER,
    sample_principles: SamplePrinciples = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Order candidates by Bradley-Terry strength over judged pairs."""
    from rich.table import Table

    from judge_service.client import JudgeClient
    from judge_service.judgment import JudgeOptions

    texts = [_text(candidate) for candidate in candidates]
    with JudgeClient(server) as client:
        found = client.rank(
            _text(prompt),
            texts,
            constitution=constitution,
            options=JudgeOptions(sample_principles=sample_principles, seed=seed),
        )
    if as_json:
        print(json.dumps(asdict(found), ensure_ascii=False))
        return
    table = Table("rank", "strength", "± s.e.", "candidate")
    for one in found.candidates:
        text = texts[one.index].replace("\n", " ")
        shown = text if len(text) <= 90 else text[:87] + "..."
        table.add_row(str(one.rank), f"{one.strength:+.2f}", f"{one.standard_error:.2f}", shown)
    output().print(table)
    output().print(f"{found.usage.reads} reads, {found.seconds:.1f} s", highlight=False)


def _text(argument: str) -> str:
    if not argument.startswith("@"):
        return argument
    path = Path(argument[1:])
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
