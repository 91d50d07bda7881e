"""The judge on a scripted engine: its prompts, its judgments and its failures."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from constitution.schema import Constitution, Message, Principle, Scope, Trait
from judge_service.judge.calibration import Calibration, Calibrations, Temperature, model_sha256
from judge_service.judge.judge import Judge, RankingError
from judge_service.judge.prompts import TEMPLATE_VERSION
from judge_service.types import (
    Comparison,
    JudgeOptions,
    Judgment,
    Order,
    Unjudged,
    UnjudgedReason,
    Usage,
    Verdict,
)
from tests.support.fakes import FakeEngine, parse

CONVERSATION = (Message(role="user", content="How long do I boil an egg?"),)


def constitution(*compare_texts: str, scope: Scope | None = None) -> Constitution:
    return Constitution(
        name="test",
        version="1.0.0",
        traits={"helpful": Trait(weight=1.0), "honest": Trait(weight=3.0)},
        principles=tuple(
            Principle(
                id=f"p{i}",
                trait=("helpful", "honest")[i % 2],
                compare=text,
                critique="c",
                revise="r",
                scope=scope,
            )
            for i, text in enumerate(compare_texts)
        ),
    )


CONSTITUTION = constitution("Be helpful.", "Be honest.")


def pair(a: str = "Eight minutes.", b: str = "No.") -> Comparison:
    return Comparison("1", CONVERSATION, a, b)


async def judged(engine: FakeEngine, **options: object) -> Judgment:
    judgment = await Judge(engine).compare(pair(), CONSTITUTION, JudgeOptions(**options))  # type: ignore[arg-type]
    assert isinstance(judgment, Judgment), judgment
    return judgment


async def unjudged(engine: FakeEngine, comparison: Comparison) -> Unjudged:
    result = await Judge(engine).compare(comparison, CONSTITUTION)
    assert isinstance(result, Unjudged), result
    return result


async def test_every_principle_is_read_in_both_orders() -> None:
    engine = FakeEngine()
    judgment = await judged(engine)
    prompts = {(parse(p).first, parse(p).principle) for p in engine.prompts}
    assert prompts == {
        (first, principle)
        for first in ("Eight minutes.", "No.")
        for principle in ("Be helpful.", "Be honest.")
    }
    assert judgment.usage.reads == 4
    assert judgment.usage.output_tokens == 4
    assert judgment.usage.prompt_tokens == sum(
        r.prompt_tokens for v in judgment.votes for r in v.reads
    )


async def test_the_label_is_the_weighted_mean_of_the_votes() -> None:
    def answer(prompt: str) -> tuple[float, float]:
        parts = parse(prompt)
        likes_a = {"Be helpful.": 0.9, "Be honest.": 0.2}[parts.principle]
        first = likes_a if parts.first == "Eight minutes." else 1 - likes_a
        return math.log(first), math.log(1 - first)

    judgment = await judged(FakeEngine(answer))
    assert judgment.prob_a == pytest.approx((1 * 0.9 + 3 * 0.2) / 4)
    assert judgment.verdict is Verdict.B
    assert judgment.trait_probs == {"helpful": pytest.approx(0.9), "honest": pytest.approx(0.2)}
    assert judgment.position_consistent is True
    assert judgment.order_gap == pytest.approx(0.0)


async def test_a_calibration_corrects_the_label_and_its_traits_alike() -> None:
    # Both principles read P(A) = 10/11 = .909. T = 6: sigmoid(log(10) / 6) = .595.
    def answer(prompt: str) -> tuple[float, float]:
        likes_a = 10 / 11 if parse(prompt).first == "Eight minutes." else 1 / 11
        return math.log(likes_a), math.log(1 - likes_a)

    engine = FakeEngine(answer)
    fitted = Calibration(
        "test", CONSTITUTION.digest, "fake", model_sha256(engine.identity), TEMPLATE_VERSION,
        "pairwise", 100, Temperature(6.0),
    )  # fmt: skip
    judge = Judge(engine, Calibrations([fitted]))
    judgment = await judge.compare(pair(), CONSTITUTION)
    swapped = await judge.compare(pair("No.", "Eight minutes."), CONSTITUTION)
    raw = await judge.compare(pair(), CONSTITUTION, JudgeOptions(calibrated=False))
    assert isinstance(judgment, Judgment)
    assert isinstance(swapped, Judgment)
    assert isinstance(raw, Judgment)
    assert judgment.prob_a == pytest.approx(0.5948, abs=1e-4)
    for trait in ("helpful", "honest"):
        assert judgment.trait_probs[trait] == pytest.approx(judgment.prob_a, abs=1e-12)
        assert swapped.trait_probs[trait] == pytest.approx(1 - judgment.prob_a, abs=1e-12)
        assert raw.trait_probs[trait] == pytest.approx(10 / 11)
    assert [vote.prob_a for vote in judgment.votes] == [pytest.approx(10 / 11)] * 2


async def test_the_receipt_names_everything_that_made_the_label() -> None:
    engine = FakeEngine()
    judgment = await judged(engine, seed=7)
    receipt = judgment.provenance
    assert receipt.constitution_sha256 == CONSTITUTION.digest
    assert receipt.model == engine.identity
    assert receipt.template_version == TEMPLATE_VERSION
    assert receipt.principle_ids == ("p0", "p1")
    assert receipt.seed == 7
    hashes = {read.prompt_sha256 for v in judgment.votes for read in v.reads}
    assert len(hashes) == 4


async def test_one_order_has_no_gap_and_no_consistency() -> None:
    judgment = await judged(FakeEngine(), orders=(Order.BA,))
    assert judgment.usage.reads == 2
    assert (judgment.order_gap, judgment.position_consistent) == (None, None)
    assert judgment.prob_a == pytest.approx(0.9 / 0.99, abs=1e-4)


async def test_a_sample_of_principles_is_what_the_receipt_names() -> None:
    judgment = await judged(FakeEngine(), sample_principles=1)
    assert len(judgment.votes) == 1
    assert judgment.provenance.principle_ids == (judgment.votes[0].principle_id,)


@given(st.text(min_size=1), st.text(min_size=1), st.floats(-30, 0), st.floats(-30, 0))
@settings(deadline=None)
def test_swapping_the_responses_gives_one_minus_p(
    a: str, b: str, first: float, second: float
) -> None:
    def answer(prompt: str) -> tuple[float, float]:
        shift = (sum(prompt.encode()) % 97) / 97  # any function of the prompt
        return min(first, -0.7) - shift, min(second, -0.7)

    async def both() -> tuple[Judgment | Unjudged, Judgment | Unjudged]:
        judge = Judge(FakeEngine(answer))
        options = JudgeOptions(sample_principles=1, min_label_mass=1e-9)
        return (
            await judge.compare(pair(a, b), CONSTITUTION, options),
            await judge.compare(pair(b, a), CONSTITUTION, options),
        )

    here, swapped = asyncio.run(both())
    if isinstance(here, Unjudged):
        assert isinstance(swapped, Unjudged)
        assert swapped.reason is here.reason
    else:
        assert isinstance(swapped, Judgment)
        assert here.prob_a + swapped.prob_a == pytest.approx(1.0, abs=1e-12)
        assert {r.prompt_sha256 for v in here.votes for r in v.reads} == {
            r.prompt_sha256 for v in swapped.votes for r in v.reads
        }


async def test_the_first_principle_runs_first_so_that_the_rest_find_its_prefix_cached() -> None:
    engine = FakeEngine(latency_seconds=0.01)
    texts = [f"Principle number {i}." for i in range(5)]
    await Judge(engine).compare(pair(), constitution(*texts))
    assert {parse(p).principle for p in engine.prompts[:2]} == {texts[0]}
    assert engine.peak_in_flight == 8


async def test_bulk_reads_have_lower_priority_than_interactive_ones() -> None:
    engine = FakeEngine()
    await judged(engine, interactive=False)
    bulk = set(engine.priorities)
    await judged(engine, interactive=True)
    assert max(set(engine.priorities) - bulk) < min(bulk)


@pytest.mark.parametrize(("a", "b", "name"), [("", "x", "A"), ("x", " \n\t", "B")])
async def test_an_empty_response_is_named_and_costs_nothing(a: str, b: str, name: str) -> None:
    engine = FakeEngine()
    result = await unjudged(engine, pair(a, b))
    assert result.reason is UnjudgedReason.EMPTY_RESPONSE
    assert f"response {name}" in result.detail
    assert engine.prompts == []


@pytest.mark.parametrize(("a", "b", "name"), [("x " * 300, "y", "A"), ("y", "x " * 300, "B")])
async def test_a_response_that_is_too_long_is_named_and_not_cut(a: str, b: str, name: str) -> None:
    engine = FakeEngine(max_context_tokens=300)
    result = await unjudged(engine, pair(a, b))
    assert result.reason is UnjudgedReason.TOO_LONG
    assert result.detail.startswith(f"response {name} is too long")
    assert engine.prompts == []


async def test_no_label_when_no_principle_applies() -> None:
    scoped = constitution("Be helpful.", "Be honest.", scope=Scope(mentions=("refund",)))
    result = await Judge(FakeEngine()).compare(pair(), scoped)
    assert isinstance(result, Unjudged)
    assert result.reason is UnjudgedReason.NO_PRINCIPLE_APPLIES


async def test_a_judge_that_would_answer_something_else_gives_no_label() -> None:
    result = await unjudged(FakeEngine(lambda _: (-5.0, -6.0)), pair())
    assert result.reason is UnjudgedReason.LOW_LABEL_MASS
    assert "0.009" in result.detail
    assert result.usage.reads == 4


async def test_nan_is_never_a_label() -> None:
    result = await unjudged(FakeEngine(lambda _: (math.nan, -0.1)), pair())
    assert result.reason is UnjudgedReason.LOW_LABEL_MASS


async def test_a_principle_with_void_reads_leaves_the_other_principles_vote() -> None:
    def answer(prompt: str) -> tuple[float, float]:
        return (-9.0, -9.0) if "honest" in parse(prompt).principle else (-0.1, -3.0)

    judgment = await judged(FakeEngine(answer))
    assert [v.principle_id for v in judgment.votes] == ["p0"]
    assert judgment.provenance.principle_ids == ("p0", "p1")


async def test_a_dead_engine_is_unjudged_and_its_other_reads_are_cancelled() -> None:
    engine = FakeEngine(latency_seconds=0.01, fail_after=3)
    result = await unjudged(engine, pair())
    assert result.reason is UnjudgedReason.ENGINE_FAILED
    assert "fails as configured" in result.detail
    assert engine.in_flight == 0


async def test_our_own_bugs_are_not_hidden_as_unjudged() -> None:
    def answer(prompt: str) -> tuple[float, float]:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup):
        await Judge(FakeEngine(answer)).compare(pair(), CONSTITUTION)


async def test_cancelling_a_comparison_aborts_its_reads() -> None:
    engine = FakeEngine(latency_seconds=60)
    task = asyncio.create_task(Judge(engine).compare(pair(), CONSTITUTION))
    while engine.in_flight < 2:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine.aborted == 2
    assert engine.in_flight == 0


async def test_ranking_orders_candidates_by_strength() -> None:
    ranking = await Judge(FakeEngine()).rank(CONVERSATION, ["xx", "x", "xxxx", "xxx"], CONSTITUTION)
    assert [c.index for c in ranking.candidates] == [2, 3, 0, 1]
    assert [c.rank for c in ranking.candidates] == [1, 2, 3, 4]
    assert len(ranking.pairs) == 6
    assert ranking.usage.reads == 6 * 4


async def test_an_empty_candidate_is_not_ranked_and_its_pairs_have_the_reason() -> None:
    ranking = await Judge(FakeEngine()).rank(CONVERSATION, ["x", "", "xxx"], CONSTITUTION)
    assert [c.index for c in ranking.candidates] == [2, 0]
    reasons = [result.reason for _, _, result in ranking.pairs if isinstance(result, Unjudged)]
    assert reasons == [UnjudgedReason.EMPTY_RESPONSE] * 2


async def test_a_candidate_too_long_is_refused_by_its_beginning_and_only_its_pairs_are_unjudged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = FakeEngine()
    long, counted = "word " * 20_000, []
    count = engine.tokenizer.encode_data

    def encode_data(text: str) -> list[int]:
        counted.append(len(text))
        return count(text)

    monkeypatch.setattr(engine.tokenizer, "encode_data", encode_data)
    candidates = ["No.", "Eight minutes.", long, "I do not know that."]
    ranking = await Judge(engine).rank(CONVERSATION, candidates, CONSTITUTION)
    assert 0 < sum(n for n in counted if n > 1000) < len(long)
    for i, j, result in ranking.pairs:
        if 2 in (i, j):
            assert isinstance(result, Unjudged)
            assert result.reason is UnjudgedReason.TOO_LONG
            assert "candidate 2" in result.detail
        else:
            assert isinstance(result, Judgment)


async def test_one_candidate_cannot_be_ranked() -> None:
    with pytest.raises(RankingError, match="too few candidates to rank: 1; give at least 2"):
        await Judge(FakeEngine()).rank(CONVERSATION, ["only"], CONSTITUTION)


async def test_a_judge_with_a_dead_engine_ranks_nothing() -> None:
    engine = FakeEngine()
    judge = Judge(engine)
    engine.die()
    ranking = await judge.rank(CONVERSATION, ["x", "xx"], CONSTITUTION)
    assert ranking.candidates == ()
    assert ranking.usage == Usage()


# ---- after a rationale


async def test_a_rationale_is_written_once_per_read_and_kept_with_it() -> None:
    engine = FakeEngine()
    judgment = await judged(engine, max_rationale_tokens=20)
    reads = [read for v in judgment.votes for read in v.reads]
    assert {read.rationale for read in reads} == {"an answer"}
    assert len(reads) == 4
    assert all("an answer\n\nThat is Reply" in prompt for prompt in engine.prompts)
    assert judgment.usage.output_tokens == 4 * (2 + 1)  # two words and a label


async def test_sampled_rationales_are_averaged_and_differ_by_seed_only() -> None:
    engine = FakeEngine()
    judgment = await judged(engine, max_rationale_tokens=20, rationale_samples=3, seed=5)
    assert [len(v.reads) for v in judgment.votes] == [6, 6]
    assert {(w.temperature, w.seed) for w in engine.writings} == {(1.0, 5), (1.0, 6), (1.0, 7)}


async def test_a_greedy_rationale_has_temperature_zero() -> None:
    engine = FakeEngine()
    await judged(engine, max_rationale_tokens=20)
    assert {w.temperature for w in engine.writings} == {0.0}


# ---- one response at a time


async def test_pointwise_reads_each_response_by_itself() -> None:
    engine = FakeEngine()
    judgment = await Judge(engine).compare(
        pair("A long enough answer.", "Short."), CONSTITUTION, JudgeOptions(protocol="pointwise")
    )
    assert isinstance(judgment, Judgment)
    # P(Yes) / P(No) is 0.8 / 0.19 and 0.2 / 0.79
    odds = (0.8 / 0.19) / (0.2 / 0.79)
    assert judgment.prob_a == pytest.approx(odds / (1 + odds))
    assert judgment.provenance.protocol == "pointwise"
    assert judgment.position_consistent is None
    assert judgment.order_gap is None
    assert all("Short." not in p or "long enough" not in p for p in engine.prompts)


# ---- abstaining


async def test_reads_on_both_sides_of_one_half_are_undecided_beyond_max_straddle() -> None:
    def always_first(_: str) -> tuple[float, float]:
        return math.log(0.9), math.log(0.1)

    engine = FakeEngine(always_first)  # P(A): 0.9 and 0.1, so the spread is 0.4
    free = await judged(engine)
    assert free.straddle == pytest.approx(0.4)
    within = await Judge(engine).compare(pair(), CONSTITUTION, JudgeOptions(max_straddle=0.41))
    assert isinstance(within, Judgment)
    beyond = await Judge(engine).compare(pair(), CONSTITUTION, JudgeOptions(max_straddle=0.39))
    assert isinstance(beyond, Unjudged)
    assert beyond.reason is UnjudgedReason.UNDECIDED
    assert "reaches 0.400 past 0.5" in beyond.detail


# ---- scores, critiques, revisions, previews
