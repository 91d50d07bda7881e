"""`rlaif judge score | critique | revise | preview`: one response, and the judge's very prompt."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from constitution.errors import UserError
from rlaif.cli.judge.options import (
    Fresh,
    Protocol,
    Text,
    asked_judge,
    describe,
    longest_wait,
    read_text,
)
from rlaif.cli.options import (
    DEFAULT_SERVER,
    AsJson,
    ConstitutionName,
    OwnJudge,
    SamplePrinciples,
    Seed,
    Server,
    Wait,
    WaitTimeout,
    output,
)

if TYPE_CHECKING:
    from rich.text import Text as StyledText

    from judge_service.types import Unjudged, Writing

PrincipleId = Annotated[
    str, typer.Option("--principle", help="Id of the principle; default: one drawn with the seed.")
]
MaxTokens = Annotated[int, typer.Option(min=1, help="Longest text, tokens.")]
Temperature = Annotated[float, typer.Option(min=0.0, max=2.0, help="Of the sampling; 0: greedy.")]

# What stands under headings with the nonce is data: a control token spelled there is plain text.
_DATA = re.compile(r"^\[\w[^\n]* (\w+)\]\n.*^\[Question \1\]$", re.DOTALL | re.MULTILINE)
_CONTROL = r"<\|[^|\s]+\|>|</?s>|\[/?INST\]"


def score(
    prompt: Text,
    response: Text,
    constitution: ConstitutionName = "",
    server: Server = DEFAULT_SERVER,
    wait: Wait = False,
    wait_timeout: WaitTimeout = None,
    judge: OwnJudge = "",
    sample_principles: SamplePrinciples = None,
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: AsJson = False,
) -> None:
    """How good one response is by itself, from -1 to 1."""
    from rich.table import Table

    from judge_service.types import JudgeOptions, Unjudged

    options = JudgeOptions(sample_principles=sample_principles, seed=seed, use_store=not fresh)
    waited = longest_wait(wait, wait_timeout)
    with asked_judge(judge, constitution, server, waited) as (client, law):
        found = client.score(read_text(prompt), read_text(response), law, options)
    if as_json:
        print(json.dumps(asdict(found), ensure_ascii=False))
        return
    if isinstance(found, Unjudged):
        raise UserError(f"no score ({found.reason.value}): {found.detail}")
    table = Table("principle", "trait", "score", "label mass")
    for one in found.principle_scores:
        table.add_row(one.principle_id, one.trait, f"{one.score:+.3f}", f"{one.label_mass:.3f}")
    out = output()
    out.print(table)
    traits = ", ".join(f"{trait} {value:+.2f}" for trait, value in found.trait_scores.items())
    out.print(f"[bold]{found.score:+.3f}[/bold] of -1 to 1  ({traits})")
    out.print(describe(found.usage, found.seconds), highlight=False)


def critique(
    prompt: Text,
    response: Text,
    constitution: ConstitutionName = "",
    server: Server = DEFAULT_SERVER,
    wait: Wait = False,
    wait_timeout: WaitTimeout = None,
    judge: OwnJudge = "",
    principle: PrincipleId = "",
    max_tokens: MaxTokens = 256,
    temperature: Temperature = 1.0,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """What is wrong with a response by one principle, in words."""
    from judge_service.types import WritingOptions

    options = WritingOptions(principle, max_tokens, temperature, seed)
    waited = longest_wait(wait, wait_timeout)
    with asked_judge(judge, constitution, server, waited) as (client, law):
        found = client.critique(read_text(prompt), read_text(response), law, options)
    _show_writing(found, as_json)


def revise(
    prompt: Text,
    response: Text,
    critique: Text,
    constitution: ConstitutionName = "",
    server: Server = DEFAULT_SERVER,
    wait: Wait = False,
    wait_timeout: WaitTimeout = None,
    judge: OwnJudge = "",
    principle: PrincipleId = "",
    max_tokens: MaxTokens = 256,
    temperature: Temperature = 1.0,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """The response rewritten by one principle and a critique."""
    from judge_service.types import WritingOptions

    options = WritingOptions(principle, max_tokens, temperature, seed)
    waited = longest_wait(wait, wait_timeout)
    with asked_judge(judge, constitution, server, waited) as (client, law):
        found = client.revise(
            read_text(prompt), read_text(response), read_text(critique), law, options
        )
    _show_writing(found, as_json)


def preview(
    prompt: Text,
    response_a: Text,
    response_b: Text,
    constitution: ConstitutionName = "",
    server: Server = DEFAULT_SERVER,
    wait: Wait = False,
    wait_timeout: WaitTimeout = None,
    sample_principles: SamplePrinciples = None,
    seed: Seed = 0,
    protocol: Protocol = "",
    as_json: AsJson = False,
) -> None:
    """The very prompts that a comparison would read, and their lengths; nothing is judged."""
    from judge_service.types import JudgeOptions

    options = JudgeOptions(sample_principles=sample_principles, seed=seed, protocol=protocol)
    waited = longest_wait(wait, wait_timeout)
    with asked_judge("", constitution, server, waited) as (client, law):
        found = client.preview(
            read_text(prompt), read_text(response_a), read_text(response_b), law, options
        )
    if as_json:
        print(json.dumps([asdict(one) for one in found], ensure_ascii=False))
        return
    if not found:
        named = constitution or "the server's constitution"
        raise UserError(f"no principle of {named} applies to this prompt; nothing is read")
    out = output()
    for one in found:
        labels = " or ".join(map(repr, one.labels))
        out.rule(
            f"{one.principle_id}, order {one.order}: {one.prompt_tokens} tokens, then {labels}"
        )
        out.print(marked(one.text), soft_wrap=True)


def marked(prompt: str) -> StyledText:
    """The prompt with its control tokens in color, and the data under judgment dim."""
    from rich.text import Text as StyledText

    styled = StyledText(prompt)
    styled.highlight_regex(_CONTROL, "bold yellow")
    if data := _DATA.search(prompt):
        styled = StyledText.assemble(styled[: data.start()], (data[0], "dim"), styled[data.end() :])
    return styled


def _show_writing(found: Writing | Unjudged, as_json: bool) -> None:
    from judge_service.types import Unjudged

    if as_json:
        print(json.dumps(asdict(found), ensure_ascii=False))
        return
    if isinstance(found, Unjudged):
        raise UserError(f"nothing written ({found.reason.value}): {found.detail}")
    out = output()
    out.print(found.text, markup=False, highlight=False, soft_wrap=True)
    cut = "" if found.complete else "; cut at its longest, see --max-tokens"
    out.print(
        f"by {found.principle_id}{cut}; {found.usage.output_tokens} tokens, {found.seconds:.1f} s",
        style="dim",
        highlight=False,
    )
