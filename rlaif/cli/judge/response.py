"""`rlaif judge score | critique | revise | preview`: one response, and the judge's prompts."""

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
    describe,
    longest_wait,
    open_judge,
    read_text,
    say_if_planted,
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
MaxTokens = Annotated[int, typer.Option(min=1, help="Maximum length of the text, in tokens.")]
Temperature = Annotated[float, typer.Option(min=0.0, max=2.0, help="Of the sampling; 0: greedy.")]

# Text under headings with the nonce is data: a control token written there is plain text.
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
    """Score one response by itself, from -1 to 1."""
    from rich.table import Table

    from judge_service.types import JudgeOptions, Unjudged

    options = JudgeOptions(sample_principles=sample_principles, seed=seed, use_store=not fresh)
    waited = longest_wait(wait, wait_timeout)
    with open_judge(judge, constitution, server, waited) as (client, by):
        answer = client.score(read_text(prompt), read_text(response), by, options)
    if as_json:
        print(json.dumps(asdict(answer), ensure_ascii=False))
        return
    if isinstance(answer, Unjudged):
        raise UserError(f"no score ({answer.reason.value}): {answer.detail}")
    table = Table("principle", "trait", "score", "label mass")
    for part in answer.principle_scores:
        table.add_row(part.principle_id, part.trait, f"{part.score:+.3f}", f"{part.label_mass:.3f}")
    out = output()
    out.print(table)
    traits = ", ".join(f"{trait} {value:+.2f}" for trait, value in answer.trait_scores.items())
    out.print(f"[bold]{answer.score:+.3f}[/bold] on a scale of -1 to 1  ({traits})")
    out.print(describe(answer.usage, answer.seconds), highlight=False)
    say_if_planted(answer.provenance)


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
    """Write what is wrong with a response by one principle."""
    from judge_service.types import WritingOptions

    options = WritingOptions(principle, max_tokens, temperature, seed)
    waited = longest_wait(wait, wait_timeout)
    with open_judge(judge, constitution, server, waited) as (client, by):
        answer = client.critique(read_text(prompt), read_text(response), by, options)
    _show_writing(answer, as_json)


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
    """Rewrite a response by one principle and a critique."""
    from judge_service.types import WritingOptions

    options = WritingOptions(principle, max_tokens, temperature, seed)
    waited = longest_wait(wait, wait_timeout)
    with open_judge(judge, constitution, server, waited) as (client, by):
        answer = client.revise(
            read_text(prompt), read_text(response), read_text(critique), by, options
        )
    _show_writing(answer, as_json)


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
    """Show the exact prompts of a comparison and their lengths, without judging."""
    from judge_service.types import JudgeOptions

    options = JudgeOptions(sample_principles=sample_principles, seed=seed, protocol=protocol)
    waited = longest_wait(wait, wait_timeout)
    with open_judge("", constitution, server, waited) as (client, by):
        previews = client.preview(
            read_text(prompt), read_text(response_a), read_text(response_b), by, options
        )
    if as_json:
        print(json.dumps([asdict(preview) for preview in previews], ensure_ascii=False))
        return
    if not previews:
        name = constitution or "the server's constitution"
        raise UserError(
            f"no principle of {name} applies to this prompt; choose another constitution or prompt"
        )
    out = output()
    for preview in previews:
        labels = " or ".join(map(repr, preview.labels))
        tokens = preview.prompt_tokens
        out.rule(f"{preview.principle_id}, order {preview.order}: {tokens} tokens, then {labels}")
        out.print(highlight_prompt(preview.text), soft_wrap=True)


def highlight_prompt(prompt: str) -> StyledText:
    """The prompt with its control tokens in color, and the judged texts dimmed."""
    from rich.text import Text as StyledText

    styled = StyledText(prompt)
    styled.highlight_regex(_CONTROL, "bold yellow")
    if data := _DATA.search(prompt):
        styled = StyledText.assemble(styled[: data.start()], (data[0], "dim"), styled[data.end() :])
    return styled


def _show_writing(answer: Writing | Unjudged, as_json: bool) -> None:
    from judge_service.types import Unjudged

    if as_json:
        print(json.dumps(asdict(answer), ensure_ascii=False))
        return
    if isinstance(answer, Unjudged):
        raise UserError(f"no text ({answer.reason.value}): {answer.detail}")
    out = output()
    out.print(answer.text, markup=False, highlight=False, soft_wrap=True)
    cut = "" if answer.complete else "; cut off, see --max-tokens"
    tokens = answer.usage.output_tokens
    out.print(
        f"by {answer.principle_id}{cut}; {tokens} tokens, {answer.seconds:.1f} s",
        style="dim",
        highlight=False,
    )
