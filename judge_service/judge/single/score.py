"""Score of a single response: the judge's expected rating, for direct RLAIF.

    score = sum_k w_k t_k s_k / sum_k w_k t_k        s_k = (E[rating | principle k] - 5) / 4

w_k is the weight of the principle, t_k that of its trait. One read per principle: there is no
position to swap with one response. Source: arXiv 2309.00267, section 2.2.3.
"""

from __future__ import annotations

import time

from constitution.schema import Constitution, Principle
from judge_service.engine import EngineError, LabelLogprobs
from judge_service.judge import aggregation, label_probs
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


async def score_response(
    runner: PromptRunner,
    conversation: Conversation,
    response: str,
    constitution: Constitution,
    options: JudgeOptions,
) -> Score | Unjudged:
    """Score one response by the constitution, in [-1, 1].

    Options that apply: sample_principles, seed, min_label_mass, use_store, interactive.
    """
    texts = {"the response": response}
    if unjudged := find_empty(texts):
        return unjudged
    ours = [principle.compare for principle in constitution.principles]
    async with runner.tokenized(conversation, texts, ours) as overlong:
        return overlong or await _score(runner, conversation, response, constitution, options)


async def _score(
    runner: PromptRunner,
    conversation: Conversation,
    response: str,
    constitution: Constitution,
    options: JudgeOptions,
) -> Score | Unjudged:
    """As `score_response`, for texts that are tokenized already."""
    started = time.perf_counter()
    await runner.turn()
    principles = aggregation.choose_principles(
        constitution.principles,
        conversation,
        (response,),
        options.sample_principles,
        options.seed,
    )
    if not principles:
        return no_principle(constitution)

    # All principles share the prefix; one read each.
    template = runner.template(RATING)
    prefix = template.prefix(conversation, (response,))
    suffixes = [template.suffix(principle.compare) for principle in principles]
    unjudged = runner.find_overflow(prefix, ("the response",), suffixes, 1)
    if unjudged:
        return unjudged

    async def read(_: str, prompt: tuple[int, ...]) -> tuple[LabelLogprobs, str]:
        return await runner.read(template, prompt, options)

    try:
        answers = await run_prompts({"": prefix}, suffixes, read, runner.start)
    except EngineError as error:
        return Unjudged(UnjudgedReason.ENGINE_FAILED, str(error))
    usage = sum((usage_of_read(answer) for answer, _ in answers.values()), Usage())

    # Principles without a usable rating, or with too little label mass, drop out of the mean.
    rated = [_principle_score(principle, *answers["", k]) for k, principle in enumerate(principles)]
    usable = [score for score in rated if score is not None]
    scores = tuple(score for score in usable if score.label_mass >= options.min_label_mass)
    if not scores:
        return low_mass([s.label_mass for s in usable], options.min_label_mass, usage)

    overall, traits = aggregation.weighted_scores(scores, constitution.trait_weights)
    provenance = runner.provenance(constitution, principles, "rating", options.seed)
    seconds = time.perf_counter() - started
    return Score(overall, traits, scores, provenance, usage, seconds)


def _principle_score(
    principle: Principle, answer: LabelLogprobs, prompt_sha256: str
) -> PrincipleScore | None:
    """The score of one read; None when it holds no usable number."""
    rating = label_probs.rate(answer.logprobs)
    if rating is None:
        return None
    return PrincipleScore(
        principle_id=principle.id,
        trait=principle.trait,
        weight=principle.weight,
        score=rating.score,
        rating_probs=rating.probs,
        label_mass=rating.label_mass,
        prompt_sha256=prompt_sha256,
        stored=answer.stored,
    )
