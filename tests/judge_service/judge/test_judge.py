"""The judge over a scripted engine: what it asks, what it finds, and how it fails."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from constitution.schema import Constitution, Message, Principle, Scope, Trait
from judge_service.judge.judge import Judge, RankingError
from judge_service.judge.prompts import TEMPLATE_VERSION
from judge_service.judge.revise import UnknownPrinciple
from judge_service.types import (
    Comparison,
    JudgeOptions,
    Judgment,
    Order,
    Score,
    Unjudged,
    UnjudgedReason,
    Usage,
    Verdict,
    Writing,
    WritingOptions,
)
from tests.support.fakes import FakeEngine, parse

CONVERSATION = (Message(role="user", content="How long do I boil an egg?"),)


def law(*compare_texts: str, scope: Scope | None = None) -> Constitution:
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


LAW = law("Be helpful.", "Be honest.")


def pair(a: str = "Eight minutes.", b: str = "No.") -> Comparison:
    return Comparison("1", CONVERSATION, a, b)


async def judged(engine: FakeEngine, **options: object) -> Judgment:
    found = await Judge(engine).compare(pair(), LAW, JudgeOptions(**options))  # type: ignore[arg-type]
    assert isinstance(found, Judgment), found
    return found


async def unjudged(engine: FakeEngine, comparison: Comparison) -> Unjudged:
    found = await Judge(engine).compare(comparison, LAW)
    assert isinstance(found, Unjudged), found
    return found


async def test_every_principle_is_read_in_both_orders() -> None:
    engine = FakeEngine()
    found = await judged(engine)
    asked = {(parse(p).first, parse(p).principle) for p in engine.prompts}
    assert asked == {
        (first, principle)
        for first in ("Eight minutes.", "No.")
        for principle in ("Be helpful.", "Be honest.")
    }
    assert found.usage.reads == 4
    assert found.usage.output_tokens == 4
    assert found.usage.prompt_tokens == sum(r.prompt_tokens for v in found.votes for r in v.reads)


async def test_the_label_is_the_weighted_mean_of_the_votes() -> None:
    def answer(prompt: str) -> tuple[float, float]:
        asked = parse(prompt)
        likes_a = {"Be helpful.": 0.9, "Be honest.": 0.2}[asked.principle]
        first = likes_a if asked.first == "Eight minutes." else 1 - likes_a
        return math.log(first), math.log(1 - first)

    found = await judged(FakeEngine(answer))
    assert found.prob_a == pytest.approx((1 * 0.9 + 3 * 0.2) / 4)
    assert found.verdict is Verdict.B
    assert found.trait_probs == {"helpful": pytest.approx(0.9), "honest": pytest.approx(0.2)}
    assert found.position_consistent is True
    assert found.order_gap == pytest.approx(0.0)


async def test_the_receipt_names_everything_that_made_the_label() -> None:
    engine = FakeEngine()
    found = await judged(engine, seed=7)
    receipt = found.provenance
    assert receipt.constitution_sha256 == LAW.digest
    assert receipt.model == engine.identity
    assert receipt.template_version == TEMPLATE_VERSION
    assert receipt.principle_ids == ("p0", "p1")
    assert receipt.seed == 7
    hashes = {read.prompt_sha256 for v in found.votes for read in v.reads}
    assert len(hashes) == 4


async def test_one_order_has_no_gap_and_no_consistency() -> None:
    found = await judged(FakeEngine(), orders=(Order.BA,))
    assert found.usage.reads == 2
    assert (found.order_gap, found.position_consistent) == (None, None)
    assert found.prob_a == pytest.approx(0.9 / 0.99, abs=1e-4)


async def test_a_sample_of_principles_is_what_the_receipt_names() -> None:
    found = await judged(FakeEngine(), sample_principles=1)
    assert len(found.votes) == 1
    assert found.provenance.principle_ids == (found.votes[0].principle_id,)


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
            await judge.compare(pair(a, b), LAW, options),
            await judge.compare(pair(b, a), LAW, options),
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


async def test_the_first_principle_goes_ahead_so_that_the_rest_find_its_prefix() -> None:
    engine = FakeEngine(latency_seconds=0.01)
    texts = [f"Principle number {i}." for i in range(5)]
    await Judge(engine).compare(pair(), law(*texts))
    assert {parse(p).principle for p in engine.prompts[:2]} == {texts[0]}
    assert engine.peak_in_flight == 8


async def test_bulk_work_stands_behind_interactive_work() -> None:
    engine = FakeEngine()
    await judged(engine, interactive=False)
    bulk = set(engine.priorities)
    await judged(engine, interactive=True)
    assert max(set(engine.priorities) - bulk) < min(bulk)


@pytest.mark.parametrize(("a", "b", "name"), [("", "x", "A"), ("x", " \n\t", "B")])
async def test_an_empty_response_is_named_and_costs_nothing(a: str, b: str, name: str) -> None:
    engine = FakeEngine()
    found = await unjudged(engine, pair(a, b))
    assert found.reason is UnjudgedReason.EMPTY_RESPONSE
    assert f"response {name}" in found.detail
    assert engine.prompts == []


@pytest.mark.parametrize(("a", "b", "name"), [("x " * 300, "y", "A"), ("y", "x " * 300, "B")])
async def test_a_response_that_is_too_long_is_named_and_not_cut(a: str, b: str, name: str) -> None:
    engine = FakeEngine(max_context_tokens=300)
    found = await unjudged(engine, pair(a, b))
    assert found.reason is UnjudgedReason.TOO_LONG
    assert found.detail.startswith(f"response {name} is too long")
    assert engine.prompts == []


async def test_without_a_principle_that_applies_there_is_no_label() -> None:
    scoped = law("Be helpful.", "Be honest.", scope=Scope(mentions=("refund",)))
    found = await Judge(FakeEngine()).compare(pair(), scoped)
    assert isinstance(found, Unjudged)
    assert found.reason is UnjudgedReason.NO_PRINCIPLE_APPLIES


async def test_a_judge_that_wants_to_say_something_else_gives_no_label() -> None:
    found = await unjudged(FakeEngine(lambda _: (-5.0, -6.0)), pair())
    assert found.reason is UnjudgedReason.LOW_LABEL_MASS
    assert "0.009" in found.detail
    assert found.usage.reads == 4


async def test_nan_is_never_a_label() -> None:
    found = await unjudged(FakeEngine(lambda _: (math.nan, -0.1)), pair())
    assert found.reason is UnjudgedReason.LOW_LABEL_MASS


async def test_one_void_principle_leaves_the_other_s_vote() -> None:
    def answer(prompt: str) -> tuple[float, float]:
        return (-9.0, -9.0) if "honest" in parse(prompt).principle else (-0.1, -3.0)

    found = await judged(FakeEngine(answer))
    assert [v.principle_id for v in found.votes] == ["p0"]
    assert found.provenance.principle_ids == ("p0", "p1")


async def test_a_dead_engine_is_unjudged_and_its_other_reads_are_cancelled() -> None:
    engine = FakeEngine(latency_seconds=0.01, fail_after=3)
    found = await unjudged(engine, pair())
    assert found.reason is UnjudgedReason.ENGINE_FAILED
    assert "told to fail" in found.detail
    assert engine.in_flight == 0


async def test_our_own_mistakes_are_not_hidden_as_unjudged() -> None:
    def answer(prompt: str) -> tuple[float, float]:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup):
        await Judge(FakeEngine(answer)).compare(pair(), LAW)


async def test_cancelling_a_comparison_aborts_its_reads() -> None:
    engine = FakeEngine(latency_seconds=60)
    task = asyncio.create_task(Judge(engine).compare(pair(), LAW))
    while engine.in_flight < 2:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine.aborted == 2
    assert engine.in_flight == 0


async def test_ranking_orders_candidates_by_strength() -> None:
    ranking = await Judge(FakeEngine()).rank(CONVERSATION, ["xx", "x", "xxxx", "xxx"], LAW)
    assert [c.index for c in ranking.candidates] == [2, 3, 0, 1]
    assert [c.rank for c in ranking.candidates] == [1, 2, 3, 4]
    assert len(ranking.pairs) == 6
    assert ranking.usage.reads == 6 * 4


async def test_an_empty_candidate_is_not_ranked_and_its_pairs_say_why() -> None:
    ranking = await Judge(FakeEngine()).rank(CONVERSATION, ["x", "", "xxx"], LAW)
    assert [c.index for c in ranking.candidates] == [2, 0]
    reasons = [found.reason for _, _, found in ranking.pairs if isinstance(found, Unjudged)]
    assert reasons == [UnjudgedReason.EMPTY_RESPONSE] * 2


async def test_a_text_too_long_for_any_pair_is_counted_once_and_refuses_its_pairs_alone(
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
    found = await Judge(engine).rank(CONVERSATION, candidates, LAW)
    assert counted.count(len(long)) == 1
    for i, j, result in found.pairs:
        if 2 in (i, j):
            assert isinstance(result, Unjudged)
            assert result.reason is UnjudgedReason.TOO_LONG
            assert "candidate 2" in result.detail
        else:
            assert isinstance(result, Judgment)


async def test_one_candidate_cannot_be_ranked() -> None:
    with pytest.raises(RankingError, match="too few candidates to rank: 1; give at least 2"):
        await Judge(FakeEngine()).rank(CONVERSATION, ["only"], LAW)


async def test_a_judge_with_a_dead_engine_ranks_nothing() -> None:
    engine = FakeEngine()
    judge = Judge(engine)
    engine.die()
    ranking = await judge.rank(CONVERSATION, ["x", "xx"], LAW)
    assert ranking.candidates == ()
    assert ranking.usage == Usage()


# ---- after a rationale


async def test_a_rationale_is_written_once_per_read_and_kept_with_it() -> None:
    engine = FakeEngine()
    found = await judged(engine, max_rationale_tokens=20)
    reads = [read for v in found.votes for read in v.reads]
    assert {read.rationale for read in reads} == {"an answer"}
    assert len(reads) == 4
    assert all("an answer\n\nThat is Reply" in prompt for prompt in engine.prompts)
    assert found.usage.output_tokens == 4 * (2 + 1)  # two words and a label


async def test_drawn_rationales_are_averaged_and_differ_by_seed_only() -> None:
    engine = FakeEngine()
    found = await judged(engine, max_rationale_tokens=20, rationale_samples=3, seed=5)
    assert [len(v.reads) for v in found.votes] == [6, 6]
    assert {(w.temperature, w.seed) for w in engine.writings} == {(1.0, 5), (1.0, 6), (1.0, 7)}


async def test_a_greedy_rationale_has_temperature_zero() -> None:
    engine = FakeEngine()
    await judged(engine, max_rationale_tokens=20)
    assert {w.temperature for w in engine.writings} == {0.0}


# ---- one response at a time


async def test_pointwise_reads_each_response_by_itself() -> None:
    engine = FakeEngine()
    found = await Judge(engine).compare(
        pair("A long enough answer.", "Short."), LAW, JudgeOptions(protocol="pointwise")
    )
    assert isinstance(found, Judgment)
    # P(Yes) / P(No) is 0.8 / 0.19 and 0.2 / 0.79
    odds = (0.8 / 0.19) / (0.2 / 0.79)
    assert found.prob_a == pytest.approx(odds / (1 + odds))
    assert found.provenance.protocol == "pointwise"
    assert found.position_consistent is None
    assert found.order_gap is None
    assert all("Short." not in p or "long enough" not in p for p in engine.prompts)


# ---- abstaining


async def test_reads_on_both_sides_of_one_half_abstain_when_the_caller_says_so() -> None:
    def always_first(_: str) -> tuple[float, float]:
        return math.log(0.9), math.log(0.1)

    engine = FakeEngine(always_first)  # P(A): 0.9 and 0.1, so the spread is 0.4
    free = await judged(engine)
    assert free.straddle == pytest.approx(0.4)
    within = await Judge(engine).compare(pair(), LAW, JudgeOptions(max_straddle=0.41))
    assert isinstance(within, Judgment)
    beyond = await Judge(engine).compare(pair(), LAW, JudgeOptions(max_straddle=0.39))
    assert isinstance(beyond, Unjudged)
    assert beyond.reason is UnjudgedReason.UNDECIDED
    assert "reaches 0.400 past 0.5" in beyond.detail


# ---- scores, critiques, revisions, previews


async def test_a_score_is_the_expected_rating_of_every_principle() -> None:
    engine = FakeEngine()
    good = await Judge(engine).score(CONVERSATION, "A long enough answer.", LAW)
    bad = await Judge(engine).score(CONVERSATION, "Short.", LAW)
    assert isinstance(good, Score)
    assert isinstance(bad, Score)
    # P(i) = i / 45: E = 285 / 45, so (E - 5) / 4 = 1/3
    assert good.score == pytest.approx(1 / 3)
    assert bad.score == pytest.approx(-1 / 3)
    assert good.trait_scores == {"helpful": pytest.approx(1 / 3), "honest": pytest.approx(1 / 3)}
    assert good.usage.reads == 2
    assert good.provenance.protocol == "rating"


async def test_an_empty_response_has_no_score() -> None:
    found = await Judge(FakeEngine()).score(CONVERSATION, " ", LAW)
    assert isinstance(found, Unjudged)
    assert found.reason is UnjudgedReason.EMPTY_RESPONSE


async def test_a_critique_shows_the_judge_the_principles_critique_text() -> None:
    engine = FakeEngine()
    options = WritingOptions(principle_id="p1", seed=9, max_tokens=50)
    found = await Judge(engine).critique(CONVERSATION, "Three hours.", LAW, options)
    assert isinstance(found, Writing)
    assert (found.text, found.complete, found.principle_id) == ("an answer", True, "p1")
    assert "Three hours." in engine.writings[0].prompt
    assert "\nc Write the critique" in engine.writings[0].prompt
    assert (engine.writings[0].seed, engine.writings[0].temperature) == (9, 1.0)


async def test_a_revision_shows_the_response_and_its_critique() -> None:
    engine = FakeEngine()
    found = await Judge(engine).revise(CONVERSATION, "Three hours.", "Far too long.", LAW)
    assert isinstance(found, Writing)
    prompt = engine.writings[0].prompt
    assert (
        prompt.index("Three hours.")
        < prompt.index("Far too long.")
        < prompt.index("\nr Write the new reply")
    )


async def test_the_principle_of_a_critique_is_drawn_with_the_seed() -> None:
    judge = Judge(FakeEngine())
    drawn = {}
    for seed in (*range(8), *range(8)):
        found = await judge.critique(CONVERSATION, "Hm.", LAW, WritingOptions(seed=seed))
        assert isinstance(found, Writing)
        assert drawn.setdefault(seed, found.principle_id) == found.principle_id
    assert set(drawn.values()) == {"p0", "p1"}


async def test_an_unknown_principle_names_the_nearest() -> None:
    with pytest.raises(UnknownPrinciple, match="did you mean 'p1'"):
        await Judge(FakeEngine()).critique(
            CONVERSATION, "Hm.", LAW, WritingOptions(principle_id="p1x")
        )


async def test_a_preview_is_what_would_be_read_to_the_token() -> None:
    engine = FakeEngine()
    judge = Judge(engine)
    previews = judge.preview(pair(), LAW)
    assert engine.prompts == []
    found = await judge.compare(pair(), LAW)
    assert isinstance(found, Judgment)
    assert sorted(p.text for p in previews) == sorted(engine.prompts)
    assert {p.prompt_sha256 for p in previews} == {
        read.prompt_sha256 for v in found.votes for read in v.reads
    }
