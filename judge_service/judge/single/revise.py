"""Critiques and revisions of a response: the supervised phase of Constitutional AI.

The prompt shows one worked example; the judge writes at the caller's temperature and seed, so the
same request gives the same text. Source: arXiv 2212.08073, section 3.1.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from constitution.errors import UserError
from constitution.schema import Constitution, Principle
from judge_service.engine import EngineError
from judge_service.judge import aggregation
from judge_service.judge.prompt_runner import (
    PromptRunner,
    find_empty,
    no_principle,
    usage_of_writing,
)
from judge_service.judge.prompts import CRITIQUE
from judge_service.judge.template import PromptSpec
from judge_service.types import Conversation, Unjudged, UnjudgedReason, Writing, WritingOptions


class UnknownPrinciple(UserError):  # noqa: N818  # reads as what it is
    """A principle id that the constitution does not have; the message names the nearest."""


async def write_text(
    runner: PromptRunner,
    spec: PromptSpec,
    conversation: Conversation,
    texts: Mapping[str, str],
    constitution: Constitution,
    options: WritingOptions,
) -> Writing | Unjudged:
    """Write a critique or a revision (`spec`) by one principle. Raises UnknownPrinciple.

    texts: name -> text, in the order of the prompt's headings.
    """
    started = time.perf_counter()
    if unjudged := find_empty(texts):
        return unjudged
    principle = _choose_principle(constitution, conversation, options)
    if principle is None:
        return no_principle(constitution)

    # Critique and revision are different texts of a principle.
    task = principle.critique if spec is CRITIQUE else principle.revise
    async with runner.tokenized(conversation, texts, [task]) as overlong:
        if overlong:
            return overlong
        await runner.turn()
        template = runner.template(spec)
        prefix = template.prefix(conversation, tuple(texts.values()))
        suffix = template.suffix(task)
    unjudged = runner.find_overflow(prefix, tuple(texts), [suffix], options.max_tokens)
    if unjudged:
        return unjudged

    try:
        written = await runner.write(
            prefix.prompt(suffix),
            options,
            max_tokens=options.max_tokens,
            temperature=options.temperature,
            seed=options.seed,
        )
    except EngineError as error:
        return Unjudged(UnjudgedReason.ENGINE_FAILED, str(error))
    return Writing(
        text=written.text.strip(),
        complete=written.complete,
        principle_id=principle.id,
        provenance=runner.provenance(constitution, (principle,), "writing", options.seed),
        usage=usage_of_writing(written),
        seconds=time.perf_counter() - started,
    )


def _choose_principle(
    constitution: Constitution, conversation: Conversation, options: WritingOptions
) -> Principle | None:
    """The principle named in the options, or one that applies, drawn with the seed."""
    if options.principle_id:
        try:
            return constitution.principle(options.principle_id)
        except KeyError as error:
            raise UnknownPrinciple(str(error.args[0])) from None
    principles = constitution.principles
    drawn = aggregation.choose_principles(principles, conversation, (), 1, options.seed)
    return drawn[0] if drawn else None
