"""The judge: compare, rank and score responses by a constitution, and mend them, over an Engine.

A judgment is a pure function of reads (`aggregation`), and a read of its prompt (`template`). What
goes wrong with one question is an `Unjudged`, not an exception. Cancelling a coroutine aborts its
reads in the engine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from constitution.errors import UserError
from constitution.schema import Constitution, Principle
from judge_service.engine import Engine, EngineError
from judge_service.judge import aggregation, ranking
from judge_service.judge import label_probs as reading
from judge_service.judge import revise as revising
from judge_service.judge import score as scoring
from judge_service.judge.calibration import Calibrations
from judge_service.judge.prompt_runner import (
    PromptRunner,
    find_empty,
    low_mass,
    no_principle,
    run_prompts,
    usage_of_read,
    usage_of_writing,
)
from judge_service.judge.prompts import CRITIQUE, PROTOCOL_PROMPTS, REVISION
from judge_service.judge.template import Prefix, Template
from judge_service.types import (
    Comparison,
    Conversation,
    JudgeOptions,
    Judgment,
    Order,
    PrincipleVote,
    PromptPreview,
    Provenance,
    Ranking,
    Read,
    Score,
    Unjudged,
    UnjudgedReason,
    Usage,
    Writing,
    WritingOptions,
)

_RECOMMENDED = JudgeOptions()
_RECOMMENDED_WRITING = WritingOptions()


class RankingError(UserError):
    """A request to rank that cannot be answered: fewer than two candidates."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """The reads of one principle in one order (None: void), with what the engine spent on them."""

    reads: tuple[Read | None, ...]
    usage: Usage


class Judge:
    """Judges over a started engine. Safe to use from many coroutines at once."""

    def __init__(self, engine: Engine, calibrations: Calibrations | None = None) -> None:
        self._asker = PromptRunner(engine)
        self._calibrations = calibrations
        self._asker.template(
            PROTOCOL_PROMPTS[reading.DEFAULT_PROTOCOL].direct
        )  # fails now, if ever

    async def compare(
        self,
        comparison: Comparison,
        constitution: Constitution,
        options: JudgeOptions = _RECOMMENDED,
    ) -> Judgment | Unjudged:
        """Which response is better by the constitution, and how surely."""
        return await self.find_overlong(comparison) or await self._compare(
            comparison, constitution, options
        )

    async def _compare(
        self, comparison: Comparison, constitution: Constitution, options: JudgeOptions
    ) -> Judgment | Unjudged:
        """As `compare`, of texts that are not overlong."""
        started = time.perf_counter()
        replies = {"response A": comparison.response_a, "response B": comparison.response_b}
        refused = find_empty(replies)
        if refused:
            return refused
        principles = _principles(comparison, constitution, options)
        if not principles:
            return no_principle(constitution)
        protocol = options.protocol or reading.DEFAULT_PROTOCOL
        template = self._pair_template(protocol, options)
        prefixes = _pair_prefixes(template, comparison, protocol, options)
        suffixes = [template.suffix(principle.compare) for principle in principles]
        conclusion = PROTOCOL_PROMPTS[protocol].conclusion if options.max_rationale_tokens else ""
        output = options.max_rationale_tokens + len(template.answer("", conclusion)) + 1
        for order, prefix in prefixes.items():
            names = tuple(replies) if order is Order.AB else tuple(reversed(replies))
            refused = self._asker.find_overflow(
                prefix, names[: len(prefix.reply_tokens)], suffixes, output
            )
            if refused:
                return refused
        ask = partial(self._ask_pair, protocol, options)
        try:
            asked = await run_prompts(prefixes, suffixes, ask)
        except EngineError as error:
            return Unjudged(UnjudgedReason.ENGINE_FAILED, str(error))
        usage = sum((a.usage for a in asked.values()), Usage())
        reads = [
            [read for order in prefixes for read in asked[order, k].reads]
            for k in range(len(principles))
        ]
        votes = [
            aggregation.vote(principle, of_principle, options.min_label_mass, protocol)
            for principle, of_principle in zip(principles, reads, strict=True)
        ]
        valid = tuple(v for v in votes if v is not None)
        if not valid:
            masses = [read.label_mass for found in reads for read in found if read is not None]
            return low_mass(masses, options.min_label_mass, usage)
        orders = tuple(prefixes)
        provenance = self._asker.provenance(
            constitution, principles, protocol, options.seed, orders
        )
        found = self._judgment(valid, constitution, options, provenance, usage)
        seconds = time.perf_counter() - started
        return replace(found, seconds=seconds) if isinstance(found, Judgment) else found

    async def rank(
        self,
        conversation: Conversation,
        candidates: Sequence[str],
        constitution: Constitution,
        options: JudgeOptions = _RECOMMENDED,
    ) -> Ranking:
        """Candidates by Bradley-Terry strength, from all pairs or a sparse design (ranking.py).

        A candidate whose pairs are all Unjudged is in `pairs` with the reasons, and not ranked.
        Raises RankingError for fewer than two candidates.
        """
        if len(candidates) < 2:
            raise RankingError(
                f"a ranking needs at least 2 candidates, not {len(candidates)}: give another "
                "response to the same conversation"
            )
        started = time.perf_counter()
        overlong = await self._asker.find_overlong(conversation, {})
        refused = [
            overlong or await self._asker.find_overlong((), {f"candidate {i}": text})
            for i, text in enumerate(candidates)
        ]

        async def compare(i: int, j: int) -> Judgment | Unjudged:
            pair = Comparison(f"{i}-{j}", conversation, candidates[i], candidates[j])
            return refused[i] or refused[j] or await self._compare(pair, constitution, options)

        pairs = ranking.design_pairs(len(candidates), options.seed)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(compare(i, j)) for i, j in pairs]
        found = [task.result() for task in tasks]
        outcomes = [
            (i, j, result.prob_a)
            for (i, j), result in zip(pairs, found, strict=True)
            if isinstance(result, Judgment)
        ]
        return Ranking(
            candidates=ranking.rank_candidates(len(candidates), outcomes),
            pairs=tuple((i, j, result) for (i, j), result in zip(pairs, found, strict=True)),
            usage=sum((result.usage for result in found), Usage()),
            seconds=time.perf_counter() - started,
        )

    async def score(
        self,
        conversation: Conversation,
        response: str,
        constitution: Constitution,
        options: JudgeOptions = _RECOMMENDED,
    ) -> Score | Unjudged:
        """How good one response is by the constitution, in [-1, 1] (scoring.py).

        Of the options it takes sample_principles, seed, min_label_mass, use_store, interactive.
        """
        return await scoring.score(self._asker, conversation, response, constitution, options)

    async def critique(
        self,
        conversation: Conversation,
        response: str,
        constitution: Constitution,
        options: WritingOptions = _RECOMMENDED_WRITING,
    ) -> Writing | Unjudged:
        """What in the response should be better by one principle. Raises UnknownPrinciple."""
        texts = {"the response": response}
        return await revising.write(
            self._asker, CRITIQUE, conversation, texts, constitution, options
        )

    async def revise(
        self,
        conversation: Conversation,
        response: str,
        critique: str,
        constitution: Constitution,
        options: WritingOptions = _RECOMMENDED_WRITING,
    ) -> Writing | Unjudged:
        """The response written again, so that the critique no longer applies. Raises
        UnknownPrinciple. Name the critique's principle in the options."""
        texts = {"the response": response, "the critique": critique}
        return await revising.write(
            self._asker, REVISION, conversation, texts, constitution, options
        )

    async def find_overlong(self, comparison: Comparison) -> Unjudged | None:
        """TOO_LONG where a text of the pair by itself is more than the judge's context holds."""
        replies = {"response A": comparison.response_a, "response B": comparison.response_b}
        return await self._asker.find_overlong(comparison.conversation, replies)

    def preview(
        self,
        comparison: Comparison,
        constitution: Constitution,
        options: JudgeOptions = _RECOMMENDED,
    ) -> tuple[PromptPreview, ...]:
        """The prompts that `compare` would read, to the token, without asking anything."""
        protocol = options.protocol or reading.DEFAULT_PROTOCOL
        template = self._pair_template(protocol, options)
        prefixes = _pair_prefixes(template, comparison, protocol, options)
        previews = []
        for principle in _principles(comparison, constitution, options):
            for order, prefix in prefixes.items():
                prompt = (*prefix.ids, *template.suffix(principle.compare))
                previews.append(self._asker.preview(template, order, principle, prompt))
        return tuple(previews)

    def _pair_template(self, protocol: str, options: JudgeOptions) -> Template:
        ways = PROTOCOL_PROMPTS[protocol]
        return self._asker.template(ways.reasoned if options.max_rationale_tokens else ways.direct)

    async def _ask_pair(
        self, protocol: str, options: JudgeOptions, order: Order, prompt: tuple[int, ...]
    ) -> _Asked:
        """One principle in one order: read at once, or after each of its rationales."""
        ways = PROTOCOL_PROMPTS[protocol]
        direct = self._asker.template(ways.direct)
        if not options.max_rationale_tokens:
            answer, asked = await self._asker.read(direct, prompt, options)
            return _Asked((reading.interpret(answer, order, asked),), usage_of_read(answer))
        reads: list[Read | None] = []
        usage = Usage()
        for sample in range(options.rationale_samples):
            written = await self._asker.write(
                prompt,
                options,
                max_tokens=options.max_rationale_tokens,
                temperature=0.0 if options.rationale_samples == 1 else 1.0,
                seed=options.seed + sample,
            )
            rationale = written.text.strip()
            concluded = (*prompt, *direct.answer(rationale, ways.conclusion))
            answer, asked = await self._asker.read(direct, concluded, options)
            reads.append(reading.interpret(answer, order, asked, rationale))
            usage += usage_of_writing(written) + usage_of_read(answer)
        return _Asked(tuple(reads), usage)

    def _judgment(
        self,
        votes: tuple[PrincipleVote, ...],
        constitution: Constitution,
        options: JudgeOptions,
        provenance: Provenance,
        usage: Usage,
    ) -> Judgment | Unjudged:
        weights = constitution.trait_weights
        raw = aggregation.weighted_prob(votes, weights)
        calibration = None
        # A curve fits the way of judging it was fitted on: both orders, no rationale.
        as_fitted = not options.max_rationale_tokens and len(provenance.orders) == 2
        if options.calibrated and as_fitted and self._calibrations is not None:
            calibration = self._calibrations.find(
                provenance.constitution_sha256,
                provenance.model,
                provenance.template_version,
                provenance.protocol,
            )
        prob_a = raw
        if calibration is not None:
            prob_a = calibration.apply(raw)
            provenance = replace(provenance, calibration=calibration.sha256)
        consistent, gap = aggregation.compare_orders(votes, weights)
        found = Judgment(
            verdict=aggregation.verdict(prob_a, options.tie_margin),
            prob_a=prob_a,
            trait_probs=aggregation.trait_probs(votes),
            votes=votes,
            position_consistent=consistent,
            order_gap=gap,
            provenance=provenance,
            usage=usage,
            seconds=0.0,
            raw_prob_a=raw,
            spread=aggregation.spread(votes, weights),
        )
        if options.max_straddle is not None and found.straddle > options.max_straddle:
            return Unjudged(
                UnjudgedReason.UNDECIDED,
                f"P(A better) is {raw:.3f} with a spread of {found.spread:.3f} over principles and "
                f"orders: it reaches {found.straddle:.3f} beyond one half, max_straddle allows "
                f"{options.max_straddle:g}",
                usage,
            )
        return found


def _principles(
    comparison: Comparison, constitution: Constitution, options: JudgeOptions
) -> tuple[Principle, ...]:
    return aggregation.choose_principles(
        constitution.principles,
        comparison.conversation,
        (comparison.response_a, comparison.response_b),
        options.sample_principles,
        options.seed,
    )


def _pair_prefixes(
    template: Template, comparison: Comparison, protocol: str, options: JudgeOptions
) -> dict[Order, Prefix]:
    """What stands before the principle, in each order. Pointwise, order AB is response A alone."""
    a, b = comparison.response_a, comparison.response_b
    if protocol == "pointwise":
        replies: dict[Order, tuple[str, ...]] = {Order.AB: (a,), Order.BA: (b,)}
    else:
        shown = {Order.AB: (a, b), Order.BA: (b, a)}
        replies = {order: shown[order] for order in options.orders}
    return {
        order: template.prefix(comparison.conversation, texts) for order, texts in replies.items()
    }
