"""The judge: compare two responses, or rank several, by a constitution, over an Engine.

All reads of a comparison are under way at once, but each order's first principle goes ahead of
the others: the engine's prefix cache shares a prompt's blocks once they are computed, so the
other principles find their prefix there.

What goes wrong with one comparison is an `Unjudged`, not an exception. Cancelling the coroutine
aborts its reads in the engine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from constitution.errors import UserError
from constitution.schema import Constitution, Principle
from judge_service import aggregation, ranking, reading
from judge_service.engine import Engine, EngineError
from judge_service.judgment import (
    Comparison,
    Conversation,
    JudgeOptions,
    Judgment,
    Order,
    PrincipleVote,
    Provenance,
    Ranking,
    Read,
    Unjudged,
    UnjudgedReason,
    Usage,
)
from judge_service.prompting import (
    TEMPLATE_VERSION,
    PairPrefix,
    PairTemplate,
    describe_overflow,
    prompt_sha256,
)

_RECOMMENDED = JudgeOptions()
_INTERACTIVE, _BULK = 0, 1  # the engine takes lower numbers first


class RankingError(UserError):
    """A request to rank that cannot be answered: fewer than two candidates."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """One read's answer, with what the engine spent on it; the read is None when void."""

    read: Read | None
    usage: Usage


class Judge:
    """Judges over a started engine. Safe to use from many coroutines at once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._template = PairTemplate(engine.tokenizer)

    async def compare(
        self,
        comparison: Comparison,
        constitution: Constitution,
        options: JudgeOptions = _RECOMMENDED,
    ) -> Judgment | Unjudged:
        """Which response is better by the constitution, and how surely."""
        started = time.perf_counter()
        refused = _find_empty(comparison)
        if refused:
            return refused
        principles = aggregation.choose_principles(
            constitution.principles, comparison, options.sample_principles, options.seed
        )
        if not principles:
            return Unjudged(
                UnjudgedReason.NO_PRINCIPLE_APPLIES,
                f"no principle of {constitution.name} {constitution.version} applies to this "
                "conversation: add one without a scope",
            )
        prefixes = {order: self._prefix(comparison, order) for order in options.orders}
        suffixes = [self._template.suffix(principle.compare) for principle in principles]
        refused = self._find_overflow(prefixes, suffixes)
        if refused:
            return refused
        try:
            asked = await self._ask_all(prefixes, suffixes, options)
        except EngineError as error:
            return Unjudged(UnjudgedReason.ENGINE_FAILED, str(error))
        usage = sum((a.usage for a in asked.values()), Usage())
        votes = [
            aggregation.vote(
                principle,
                [asked[order, k].read for order in prefixes],
                options.min_label_mass,
            )
            for k, principle in enumerate(principles)
        ]
        valid = tuple(v for v in votes if v is not None)
        if not valid:
            return _low_mass([a.read for a in asked.values()], options.min_label_mass, usage)
        provenance = self._provenance(constitution, principles, options)
        seconds = time.perf_counter() - started
        return _judgment(valid, constitution, options, provenance, usage, seconds)

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
        pairs = ranking.design_pairs(len(candidates), options.seed)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(
                    self.compare(
                        Comparison(f"{i}-{j}", conversation, candidates[i], candidates[j]),
                        constitution,
                        options,
                    )
                )
                for i, j in pairs
            ]
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

    def _prefix(self, comparison: Comparison, order: Order) -> PairPrefix:
        responses = (comparison.response_a, comparison.response_b)
        first, second = responses if order is Order.AB else reversed(responses)
        return self._template.prefix(comparison.conversation, first, second)

    def _find_overflow(
        self, prefixes: dict[Order, PairPrefix], suffixes: Sequence[tuple[int, ...]]
    ) -> Unjudged | None:
        longest_suffix = max(len(suffix) for suffix in suffixes)
        for order, prefix in prefixes.items():
            replies = (prefix.first_tokens, prefix.second_tokens)
            detail = describe_overflow(
                prefix.conversation_tokens,
                replies if order is Order.AB else (replies[1], replies[0]),
                len(prefix.ids) + longest_suffix,
                self._engine.max_context_tokens,
            )
            if detail:
                return Unjudged(UnjudgedReason.TOO_LONG, detail)
        return None

    async def _ask_all(
        self,
        prefixes: dict[Order, PairPrefix],
        suffixes: Sequence[tuple[int, ...]],
        options: JudgeOptions,
    ) -> dict[tuple[Order, int], _Asked]:
        """Every order with every suffix. Raises EngineError, with the other reads cancelled."""
        priority = _INTERACTIVE if options.interactive else _BULK
        asked: dict[tuple[Order, int], _Asked] = {}

        async def ask(order: Order, k: int) -> None:
            prompt = (*prefixes[order].ids, *suffixes[k])
            asked[order, k] = await self._ask(prompt, order, priority)

        async def ask_order(order: Order) -> None:
            await ask(order, 0)
            async with asyncio.TaskGroup() as rest:
                for k in range(1, len(suffixes)):
                    rest.create_task(ask(order, k))

        try:
            async with asyncio.TaskGroup() as group:
                for order in prefixes:
                    group.create_task(ask_order(order))
        except ExceptionGroup as failures:
            if failures.split(EngineError)[1] is not None:
                raise  # a mistake of ours among them
            raise EngineError(str(_first_leaf(failures))) from failures
        return asked

    async def _ask(self, prompt: tuple[int, ...], order: Order, priority: int) -> _Asked:
        labels = self._template.label_ids
        answer = await self._engine.read(prompt, labels, priority=priority)
        read = reading.interpret(answer, order, prompt_sha256(prompt, labels))
        return _Asked(read, Usage(answer.prompt_tokens, answer.cached_tokens, 1, 1))

    def _provenance(
        self, constitution: Constitution, principles: Sequence[Principle], options: JudgeOptions
    ) -> Provenance:
        return Provenance(
            constitution_name=constitution.name,
            constitution_version=constitution.version,
            constitution_sha256=constitution.digest,
            model=self._engine.identity,
            template_version=TEMPLATE_VERSION,
            principle_ids=tuple(p.id for p in principles),
            orders=options.orders,
            seed=options.seed,
        )


def _judgment(
    votes: tuple[PrincipleVote, ...],
    constitution: Constitution,
    options: JudgeOptions,
    provenance: Provenance,
    usage: Usage,
    seconds: float,
) -> Judgment:
    weights = constitution.trait_weights
    prob_a = aggregation.weighted_prob(votes, weights)
    consistent, gap = aggregation.compare_orders(votes, weights)
    return Judgment(
        verdict=aggregation.verdict(prob_a, options.tie_margin),
        prob_a=prob_a,
        trait_probs=aggregation.trait_probs(votes),
        votes=votes,
        position_consistent=consistent,
        order_gap=gap,
        provenance=provenance,
        usage=usage,
        seconds=seconds,
    )


def _find_empty(comparison: Comparison) -> Unjudged | None:
    for name, text in (("A", comparison.response_a), ("B", comparison.response_b)):
        if not text.strip():
            return Unjudged(
                UnjudgedReason.EMPTY_RESPONSE,
                f"response {name} is empty: there is nothing to judge",
            )
    return None


def _low_mass(reads: Sequence[Read | None], minimum: float, usage: Usage) -> Unjudged:
    masses = [read.label_mass for read in reads if read is not None]
    best = f"at most {max(masses):.3f}" if masses else "no number at all"
    return Unjudged(
        UnjudgedReason.LOW_LABEL_MASS,
        f"the judge did not want to name a reply: its two labels got {best} of the probability, "
        f"min_label_mass is {minimum:g}; use a stronger judge model or a lower minimum",
        usage,
    )


def _first_leaf(group: ExceptionGroup[Exception]) -> Exception:
    error = group.exceptions[0]
    return _first_leaf(error) if isinstance(error, ExceptionGroup) else error
