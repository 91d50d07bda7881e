"""The judge: compares, ranks, scores, critiques and revises responses by a constitution.

A judgment is a pure function of its reads (`aggregation`), and a read a pure function of its prompt
(`template`). A question that cannot be answered is an `Unjudged`, not an exception. Cancelling a
coroutine aborts its reads in the engine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial

from constitution.errors import UserError
from constitution.schema import Constitution
from judge_service.engine import Engine, EngineError
from judge_service.judge import aggregation, label_probs, ranking
from judge_service.judge.calibration import Calibrations
from judge_service.judge.pair_prompts import (
    choose_pair_principles,
    named_responses,
    pair_prefixes,
)
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
from judge_service.judge.reader import Lengths
from judge_service.judge.single.revise import write_text
from judge_service.judge.single.score import score_response
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
_PROMPTS_AT_ONCE = 256  # of one ranking: each has up to the context's tokens


class RankingError(UserError):
    """A ranking request with fewer than two candidates."""


@dataclass(frozen=True, slots=True)
class _OrderReads:
    """The reads of one principle in one order (None: void), and what the engine spent on them."""

    reads: tuple[Read | None, ...]
    usage: Usage


class Judge:
    """A judge on a started engine. Safe to use from many coroutines at once.

    calibrations: applied where they were fitted for the setup; None: probabilities as read. Raises
    TemplateError at once when the engine's model cannot carry the judge's prompts.
    """

    def __init__(self, engine: Engine, calibrations: Calibrations | None = None) -> None:
        self._runner = PromptRunner(engine)
        self._calibrations = calibrations
        # Build the default template now: a model that cannot carry it fails here, not in a call.
        self._runner.template(PROTOCOL_PROMPTS[label_probs.DEFAULT_PROTOCOL].direct)

    async def compare(
        self,
        comparison: Comparison,
        constitution: Constitution,
        options: JudgeOptions = _RECOMMENDED,
    ) -> Judgment | Unjudged:
        """Judge which response is better by the constitution: P(A is better), and the evidence.

        Returns Unjudged for everything that cannot be answered. Raises StoreUnavailable where the
        engine keeps its reads in a store that fails.
        """
        texts, ours = named_responses(comparison), _compared_by(constitution)
        async with self._runner.tokenized(comparison.conversation, texts, ours) as overlong:
            return overlong or await self._compare(comparison, constitution, options)

    async def _compare(
        self, comparison: Comparison, constitution: Constitution, options: JudgeOptions
    ) -> Judgment | Unjudged:
        """As `compare`, for texts that are tokenized already and not overlong."""
        started = time.perf_counter()
        await self._runner.turn()
        unjudged = find_empty(named_responses(comparison))
        if unjudged:
            return unjudged
        principles = choose_pair_principles(comparison, constitution, options)
        if not principles:
            return no_principle(constitution)

        # One prefix per order, one suffix per principle: every combination is a prompt.
        protocol = options.protocol or label_probs.DEFAULT_PROTOCOL
        template = self._pair_template(protocol, options)
        prefixes = pair_prefixes(template, comparison, protocol, options)
        suffixes = [template.suffix(principle.compare) for principle in principles]
        unjudged = self._find_pair_overflow(comparison, template, prefixes, suffixes, options)
        if unjudged:
            return unjudged
        try:
            read = partial(self._read_pair, protocol, options)
            results = await run_prompts(prefixes, suffixes, read, self._runner.start)
        except EngineError as error:
            return Unjudged(UnjudgedReason.ENGINE_FAILED, str(error))

        # Per principle, the reads of all orders make one vote; it drops out where one has no valid
        # read.
        usage = sum((result.usage for result in results.values()), Usage())
        reads = [
            [read for order in prefixes for read in results[order, k].reads]
            for k in range(len(principles))
        ]
        votes = [
            aggregation.vote(
                principle, principle_reads, options.min_label_mass, protocol, orders=prefixes
            )
            for principle, principle_reads in zip(principles, reads, strict=True)
        ]
        valid = tuple(v for v in votes if v is not None)
        if not valid:
            masses = [r.label_mass for of_one in reads for r in of_one if r is not None]
            return low_mass(masses, options.min_label_mass, usage)

        provenance = self._runner.provenance(
            constitution, principles, protocol, options.seed, tuple(prefixes)
        )
        lengths = Lengths.of(comparison.response_a, comparison.response_b)
        judgment = self._judgment(valid, lengths, constitution, options, provenance, usage)
        seconds = time.perf_counter() - started
        return replace(judgment, seconds=seconds) if isinstance(judgment, Judgment) else judgment

    async def rank(
        self,
        conversation: Conversation,
        candidates: Sequence[str],
        constitution: Constitution,
        options: JudgeOptions = _RECOMMENDED,
    ) -> Ranking:
        """Rank candidates by Bradley-Terry strength, from all pairs or a sparse set (ranking.py).

        A candidate whose pairs are all Unjudged appears in `pairs` with the reasons, unranked.
        Raises RankingError for fewer than two candidates.
        """
        if len(candidates) < 2:
            raise RankingError(
                f"too few candidates to rank: {len(candidates)}; give at least 2 responses to the "
                "same conversation"
            )
        started = time.perf_counter()

        # Each text is tokenized once here, not once per pair that it is in.
        async with AsyncExitStack() as held:
            tokenized = self._runner.tokenized
            shared = tokenized(conversation, {}, _compared_by(constitution))
            overlong = await held.enter_async_context(shared)
            unjudged = [overlong] * len(candidates)
            for i, text in enumerate(candidates if overlong is None else ()):
                own = tokenized((), {f"candidate {i}": text})
                unjudged[i] = await held.enter_async_context(own)

            prompts = len(options.orders) * len(constitution.principles)  # of a pair
            at_once = asyncio.Semaphore(max(1, _PROMPTS_AT_ONCE // prompts))

            async def compare(i: int, j: int) -> Judgment | Unjudged:
                pair = Comparison(f"{i}-{j}", conversation, candidates[i], candidates[j])
                if refused := unjudged[i] or unjudged[j]:
                    return refused
                async with at_once:
                    return await self._compare(pair, constitution, options)

            pairs = ranking.design_pairs(len(candidates), options.seed)
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(compare(i, j)) for i, j in pairs]
            results = [task.result() for task in tasks]

        # Only judged pairs inform the strengths; unjudged ones are listed with their reason.
        outcomes = [
            (i, j, result.prob_a)
            for (i, j), result in zip(pairs, results, strict=True)
            if isinstance(result, Judgment)
        ]
        ranked = await asyncio.to_thread(ranking.rank_candidates, len(candidates), outcomes)
        return Ranking(
            candidates=ranked,
            pairs=tuple((i, j, result) for (i, j), result in zip(pairs, results, strict=True)),
            usage=sum((result.usage for result in results), Usage()),
            seconds=time.perf_counter() - started,
        )

    async def score(
        self,
        conversation: Conversation,
        response: str,
        constitution: Constitution,
        options: JudgeOptions = _RECOMMENDED,
    ) -> Score | Unjudged:
        """Score one response by the constitution, in [-1, 1] (score.py).

        Options that apply: sample_principles, seed, min_label_mass, use_store, interactive.
        """
        return await score_response(self._runner, conversation, response, constitution, options)

    async def critique(
        self,
        conversation: Conversation,
        response: str,
        constitution: Constitution,
        options: WritingOptions = _RECOMMENDED_WRITING,
    ) -> Writing | Unjudged:
        """Write what the response does badly by one principle. Raises UnknownPrinciple."""
        texts = {"the response": response}
        return await write_text(self._runner, CRITIQUE, conversation, texts, constitution, options)

    async def revise(
        self,
        conversation: Conversation,
        response: str,
        critique: str,
        constitution: Constitution,
        options: WritingOptions = _RECOMMENDED_WRITING,
    ) -> Writing | Unjudged:
        """Rewrite the response so that the critique no longer applies. Raises UnknownPrinciple.

        Name the critique's principle in the options.
        """
        texts = {"the response": response, "the critique": critique}
        return await write_text(self._runner, REVISION, conversation, texts, constitution, options)

    async def preview(
        self,
        comparison: Comparison,
        constitution: Constitution,
        options: JudgeOptions = _RECOMMENDED,
    ) -> tuple[PromptPreview, ...] | Unjudged:
        """The prompts that `compare` would read, to the token. Nothing is sent to the engine."""
        texts, ours = named_responses(comparison), _compared_by(constitution)
        async with self._runner.tokenized(comparison.conversation, texts, ours) as overlong:
            if overlong:
                return overlong
            await self._runner.turn()
            protocol = options.protocol or label_probs.DEFAULT_PROTOCOL
            template = self._pair_template(protocol, options)
            prefixes = pair_prefixes(template, comparison, protocol, options)
            previews = []
            for principle in choose_pair_principles(comparison, constitution, options):
                suffix = template.suffix(principle.compare)
                for order, prefix in prefixes.items():
                    await self._runner.turn()
                    prompt = prefix.prompt(suffix)
                    previews.append(self._runner.preview(template, order, principle, prompt))
            return tuple(previews)

    def _pair_template(self, protocol: str, options: JudgeOptions) -> Template:
        prompts = PROTOCOL_PROMPTS[protocol]
        return self._runner.template(
            prompts.reasoned if options.max_rationale_tokens else prompts.direct
        )

    def _find_pair_overflow(
        self,
        comparison: Comparison,
        template: Template,
        prefixes: Mapping[Order, Prefix],
        suffixes: Sequence[tuple[int, ...]],
        options: JudgeOptions,
    ) -> Unjudged | None:
        """TOO_LONG when a prompt with its output (rationale, conclusion, label) does not fit."""
        output_tokens = 1
        if options.max_rationale_tokens:
            protocol = options.protocol or label_probs.DEFAULT_PROTOCOL
            concluding = template.answer("", PROTOCOL_PROMPTS[protocol].conclusion)
            output_tokens += options.max_rationale_tokens + len(concluding)
        names = tuple(named_responses(comparison))
        for order, prefix in prefixes.items():
            shown = names if order is Order.AB else tuple(reversed(names))
            unjudged = self._runner.find_overflow(
                prefix, shown[: len(prefix.reply_tokens)], suffixes, output_tokens
            )
            if unjudged:
                return unjudged
        return None

    async def _read_pair(
        self, protocol: str, options: JudgeOptions, order: Order, prompt: tuple[int, ...]
    ) -> _OrderReads:
        """One principle in one order: read directly, or after each of its rationales."""
        prompts = PROTOCOL_PROMPTS[protocol]
        direct = self._runner.template(prompts.direct)
        if not options.max_rationale_tokens:
            answer, prompt_sha256 = await self._runner.read(direct, prompt, options)
            read = label_probs.interpret(answer, order, prompt_sha256)
            return _OrderReads((read,), usage_of_read(answer))

        # A single rationale is greedy; several are samples, whose reads are averaged.
        reads: list[Read | None] = []
        usage = Usage()
        for sample in range(options.rationale_samples):
            written = await self._runner.write(
                prompt,
                options,
                max_tokens=options.max_rationale_tokens,
                temperature=0.0 if options.rationale_samples == 1 else 1.0,
                seed=options.seed + sample,
            )
            rationale = written.text.strip()
            concluded = (*prompt, *direct.answer(rationale, prompts.conclusion))
            answer, prompt_sha256 = await self._runner.read(direct, concluded, options)
            reads.append(label_probs.interpret(answer, order, prompt_sha256, rationale))
            usage += usage_of_writing(written) + usage_of_read(answer)
        return _OrderReads(tuple(reads), usage)

    def _judgment(
        self,
        votes: tuple[PrincipleVote, ...],
        lengths: Lengths,
        constitution: Constitution,
        options: JudgeOptions,
        provenance: Provenance,
        usage: Usage,
    ) -> Judgment | Unjudged:
        """The judgment of valid votes, calibrated; UNDECIDED when it straddles 0.5 too far."""
        weights = constitution.trait_weights
        raw = aggregation.weighted_prob(votes, weights)

        # A calibration is valid only for the setup it was fitted on: both orders, no rationale.
        calibration = None
        as_fitted = not options.max_rationale_tokens and len(provenance.orders) == 2
        if options.calibrated and as_fitted and self._calibrations is not None:
            calibration = self._calibrations.find(
                provenance.constitution_sha256,
                provenance.model,
                provenance.template_version,
                provenance.protocol,
            )
        prob_a, trait_probs = raw, aggregation.trait_probs(votes)
        if calibration is not None:
            prob_a, trait_probs = calibration.apply(raw, trait_probs, votes, lengths)
            provenance = calibration.recorded_in(provenance)

        consistent, gap = aggregation.compare_orders(votes, weights)
        judgment = Judgment(
            verdict=aggregation.verdict(prob_a, options.tie_margin),
            prob_a=prob_a,
            trait_probs=trait_probs,
            votes=votes,
            position_consistent=consistent,
            order_gap=gap,
            provenance=provenance,
            usage=usage,
            seconds=0.0,
            raw_prob_a=raw,
            spread=aggregation.spread(votes, weights),
        )
        if options.max_straddle is not None and judgment.straddle > options.max_straddle:
            return Unjudged(
                UnjudgedReason.UNDECIDED,
                f"the judge is undecided: P(A is better) = {raw:.3f} with a spread of "
                f"{judgment.spread:.3f} over principles and orders reaches {judgment.straddle:.3f} "
                f"past 0.5; raise max_straddle, now {options.max_straddle:g}, to accept it",
                usage,
            )
        return judgment


def _compared_by(constitution: Constitution) -> list[str]:
    """The texts by which pairs may be compared."""
    return [principle.compare for principle in constitution.principles]
