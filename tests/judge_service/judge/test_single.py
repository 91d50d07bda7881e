"""What the judge does with a single response: scores, critiques, revisions; and previews."""

from __future__ import annotations

import pytest

from judge_service.judge.judge import Judge
from judge_service.judge.single.revise import UnknownPrinciple
from judge_service.types import (
    Judgment,
    Score,
    Unjudged,
    UnjudgedReason,
    Writing,
    WritingOptions,
)
from tests.judge_service.judge.test_judge import CONSTITUTION, CONVERSATION, pair
from tests.support.fakes import FakeEngine


async def test_a_score_is_the_expected_rating_of_every_principle() -> None:
    engine = FakeEngine()
    good = await Judge(engine).score(CONVERSATION, "A long enough answer.", CONSTITUTION)
    bad = await Judge(engine).score(CONVERSATION, "Short.", CONSTITUTION)
    assert isinstance(good, Score)
    assert isinstance(bad, Score)
    # P(i) = i / 45: E = 285 / 45, so (E - 5) / 4 = 1/3
    assert good.score == pytest.approx(1 / 3)
    assert bad.score == pytest.approx(-1 / 3)
    assert good.trait_scores == {"helpful": pytest.approx(1 / 3), "honest": pytest.approx(1 / 3)}
    assert good.usage.reads == 2
    assert good.provenance.protocol == "rating"


async def test_an_empty_response_has_no_score() -> None:
    result = await Judge(FakeEngine()).score(CONVERSATION, " ", CONSTITUTION)
    assert isinstance(result, Unjudged)
    assert result.reason is UnjudgedReason.EMPTY_RESPONSE


async def test_a_critique_shows_the_judge_the_principles_critique_text() -> None:
    engine = FakeEngine()
    options = WritingOptions(principle_id="p1", seed=9, max_tokens=50)
    writing = await Judge(engine).critique(CONVERSATION, "Three hours.", CONSTITUTION, options)
    assert isinstance(writing, Writing)
    assert (writing.text, writing.complete, writing.principle_id) == ("an answer", True, "p1")
    assert "Three hours." in engine.writings[0].prompt
    assert "\nc Write the critique" in engine.writings[0].prompt
    assert (engine.writings[0].seed, engine.writings[0].temperature) == (9, 1.0)


async def test_a_revision_shows_the_response_and_its_critique() -> None:
    engine = FakeEngine()
    writing = await Judge(engine).revise(
        CONVERSATION, "Three hours.", "Far too long.", CONSTITUTION
    )
    assert isinstance(writing, Writing)
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
        writing = await judge.critique(CONVERSATION, "Hm.", CONSTITUTION, WritingOptions(seed=seed))
        assert isinstance(writing, Writing)
        assert drawn.setdefault(seed, writing.principle_id) == writing.principle_id
    assert set(drawn.values()) == {"p0", "p1"}


async def test_an_unknown_principle_names_the_nearest() -> None:
    with pytest.raises(UnknownPrinciple, match="did you mean 'p1'"):
        await Judge(FakeEngine()).critique(
            CONVERSATION, "Hm.", CONSTITUTION, WritingOptions(principle_id="p1x")
        )


async def test_a_preview_shows_the_prompts_to_the_token() -> None:
    engine = FakeEngine()
    judge = Judge(engine)
    previews = await judge.preview(pair(), CONSTITUTION)
    assert not isinstance(previews, Unjudged)
    assert engine.prompts == []
    judgment = await judge.compare(pair(), CONSTITUTION)
    assert isinstance(judgment, Judgment)
    assert sorted(p.text for p in previews) == sorted(engine.prompts)
    assert {p.prompt_sha256 for p in previews} == {
        read.prompt_sha256 for v in judgment.votes for read in v.reads
    }
