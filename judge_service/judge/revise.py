"""Critiques and revisions of one response: the supervised half of Constitutional AI.

The judge is shown one worked example, then writes at temperature 1 with the caller's seed, so the
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
    """A principle was asked for that the constitution lacks; names the nearest."""


async def write(
    asker: PromptRunner,
    wording: PromptSpec,
    conversation: Conversation,
    texts: Mapping[str, str],
    constitution: Constitution,
    options: WritingOptions,
) -> Writing | Unjudged:
    """What the judge writes about `texts`, each by its name. Raises UnknownPrinciple."""
    started = time.perf_counter()
    refused = find_empty(texts) or await asker.find_overlong(conversation, texts)
    if refused:
        return refused
    principle = _chosen(constitution, conversation, options)
    if principle is None:
        return no_principle(constitution)
    template = asker.template(wording)
    prefix = template.prefix(conversation, tuple(texts.values()))
    task = principle.critique if wording is CRITIQUE else principle.revise
    suffix = template.suffix(task)
    refused = asker.find_overflow(prefix, tuple(texts), [suffix], options.max_tokens)
    if refused:
        return refused
    try:
        written = await asker.write(
            (*prefix.ids, *suffix),
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
        provenance=asker.provenance(constitution, (principle,), "writing", options.seed),
        usage=usage_of_writing(written),
        seconds=time.perf_counter() - started,
    )


def _chosen(
    constitution: Constitution, conversation: Conversation, options: WritingOptions
) -> Principle | None:
    """The principle that was named, or one that applies, drawn with the seed."""
    if options.principle_id:
        try:
            return constitution.principle(options.principle_id)
        except KeyError as error:
            raise UnknownPrinciple(str(error.args[0])) from None
    principles = constitution.principles
    drawn = aggregation.choose_principles(principles, conversation, (), 1, options.seed)
    return drawn[0] if drawn else None
