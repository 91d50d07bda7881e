"""How good one response is by itself: the judge's expected rating, for direct RLAIF.

    score = sum_k w_k t_k s_k / sum_k w_k t_k        s_k = (E[rating | principle k] - 5) / 4

w_k is the weight of the principle, t_k that of its trait. One read per principle: a response alone
has no position. Source: arXiv 2309.00267, section 2.2.3.
"""

from __future__ import annotations

import time

from constitution.schema import Constitution
from judge_service.engine import EngineError, LabelLogprobs
from judge_service.judge import aggregation
from judge_service.judge import label_probs as reading
from judge_service.judge.prompt_runner import (
    PromptRunner,
    find_empty,
    low_mass,
    no_principle,
    run_prompts,
    usage_of_read,
)
from judge_service.judge.prompts import RATING
from judge_service.types import (
    Conversation,
    JudgeOptions,
    PrincipleScore,
    Score,
    Unjudged,
    UnjudgedReason,
    Usage,
)


async def score(
    asker: PromptRunner,
    conversation: Conversation,
    response: str,
    constitution: Constitution,
    options: JudgeOptions,
) -> Score | Unjudged:
    """How good one response is by the constitution, in [-1, 1] (direct RLAIF).

    Of the options it takes sample_principles, seed, min_label_mass, use_store, interactive.
    """
    started = time.perf_counter()
    replies = {"the response": response}
    refused = find_empty(replies) or await asker.find_overlong(conversation, replies)
    if refused:
        return refused
    principles = aggregation.choose_principles(
        constitution.principles,
        conversation,
        (response,),
        options.sample_principles,
        options.seed,
    )
    if not principles:
        return no_principle(constitution)
    template = asker.template(RATING)
    prefix = template.prefix(conversation, (response,))
    suffixes = [template.suffix(principle.compare) for principle in principles]
    refused = asker.find_overflow(prefix, ("the response",), suffixes, 1)
    if refused:
        return refused

    async def ask(_: str, prompt: tuple[int, ...]) -> tuple[LabelLogprobs, str]:
        return await asker.read(template, prompt, options)

    try:
        asked = await run_prompts({"": prefix}, suffixes, ask)
    except EngineError as error:
        return Unjudged(UnjudgedReason.ENGINE_FAILED, str(error))
    usage = sum((usage_of_read(answer) for answer, _ in asked.values()), Usage())
    rated = [(reading.rate(asked["", k][0].logprobs), *asked["", k]) for k in range(len(asked))]
    scores = tuple(
        PrincipleScore(
            principle_id=principle.id,
            trait=principle.trait,
            weight=principle.weight,
            score=rating.score,
            rating_probs=rating.probs,
            label_mass=rating.label_mass,
            prompt_sha256=asked_sha256,
            stored=answer.stored,
        )
        for principle, (rating, answer, asked_sha256) in zip(principles, rated, strict=True)
        if rating is not None and rating.label_mass >= options.min_label_mass
    )
    if not scores:
        masses = [rating.label_mass for rating, _, _ in rated if rating is not None]
        return low_mass(masses, options.min_label_mass, usage)
    whole, traits = aggregation.weighted_scores(scores, constitution.trait_weights)
    provenance = asker.provenance(constitution, principles, "rating", options.seed)
    seconds = time.perf_counter() - started
    return Score(whole, traits, scores, provenance, usage, seconds)
