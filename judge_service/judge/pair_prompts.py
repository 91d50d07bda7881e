"""What the prompts of one comparison are made of: its responses, principles and prefixes. Pure."""

from __future__ import annotations

from constitution.schema import Constitution, Principle
from judge_service.judge import aggregation
from judge_service.judge.template import Prefix, Template, content_nonce
from judge_service.types import Comparison, JudgeOptions, Order


def named_responses(comparison: Comparison) -> dict[str, str]:
    """The pair's responses by the names that messages call them."""
    return {"response A": comparison.response_a, "response B": comparison.response_b}


def choose_pair_principles(
    comparison: Comparison, constitution: Constitution, options: JudgeOptions
) -> tuple[Principle, ...]:
    """The principles that apply to the pair, or the requested sample of them."""
    return aggregation.choose_principles(
        constitution.principles,
        comparison.conversation,
        (comparison.response_a, comparison.response_b),
        options.sample_principles,
        options.seed,
    )


def pair_prefixes(
    template: Template, comparison: Comparison, protocol: str, options: JudgeOptions
) -> dict[Order, Prefix]:
    """The prompt's part before the principle, per order. Pointwise, AB is response A alone."""
    conversation, a, b = comparison.conversation, comparison.response_a, comparison.response_b
    if protocol == "pointwise":
        alone = {Order.AB: (a,), Order.BA: (b,)}
        return {order: template.prefix(conversation, texts) for order, texts in alone.items()}
    shown = {Order.AB: (a, b), Order.BA: (b, a)}
    nonce = content_nonce(conversation, (a, b))  # of both orders
    return {order: template.prefix(conversation, shown[order], nonce) for order in options.orders}
