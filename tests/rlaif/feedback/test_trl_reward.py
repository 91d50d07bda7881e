"""The judge as a reward function of trl: its requests, its ratings, and missing ratings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from constitution.errors import UserError
from constitution.schema import Message
from judge_service.client.sync import AsyncJudgeClient
from judge_service.types import Unjudged, UnjudgedReason
from rlaif.feedback.trl_reward import TRLJudgeReward, TRLRewardError, conversation, reply
from tests.support.fakes import FakeEngine
from tests.support.service.serving import one_principle, serving

LONG, SHORT = "an answer of more than twenty letters", "no"


@dataclass
class Rated:
    score: float


@dataclass
class ScriptedClient:
    """A client that rates by a function of the response."""

    rate: Any = len
    requests: list[tuple[Any, ...]] = field(default_factory=list)
    in_flight: int = 0
    peak: int = 0

    async def score(self, conversation, response, constitution, *, timeout=None):
        self.requests.append((conversation, response, constitution, timeout))
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        await asyncio.sleep(0.001)
        self.in_flight -= 1
        rating = self.rate(response)
        if isinstance(rating, Exception):
            raise rating
        return rating if isinstance(rating, Unjudged) else Rated(float(rating))

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[ScriptedClient]:
        yield self


def test_text_and_messages_are_read_the_same():
    turns = [{"role": "user", "content": "Why?"}]
    assert conversation("Why?") == conversation(turns) == (Message(role="user", content="Why?"),)
    assert reply("So.") == reply([{"role": "assistant", "content": "So."}]) == "So."


def test_unknown_roles_and_content_other_than_text_are_errors():
    with pytest.raises(TRLRewardError, match="unknown role in a prompt: 'tool'"):
        conversation([{"role": "tool", "content": "42"}])
    with pytest.raises(TRLRewardError, match="not text"):
        conversation([{"role": "user", "content": [{"type": "image"}]}])
    with pytest.raises(TRLRewardError, match="concurrency=0"):
        TRLJudgeReward(ScriptedClient().connect, concurrency=0)


async def test_ratings_come_in_order_and_concurrency_is_limited():
    script = ScriptedClient()
    reward = TRLJudgeReward(script.connect, "hhh", concurrency=3, timeout=7.0)
    completions = ["x" * n for n in range(1, 12)]
    assert await reward(["p"] * 11, completions, color=["red"] * 11) == [*range(1, 12)]
    assert script.peak == 3
    assert script.requests[0][2:] == ("hhh", 7.0)


async def test_a_missing_rating_is_none_and_is_counted():
    def rate(response):
        if response == "slow":
            return UserError("did not answer in time")
        if response == "odd":
            return Unjudged(UnjudgedReason.LOW_LABEL_MASS, "it said something else")
        return 0.25

    logged: dict[str, float] = {}
    script = ScriptedClient(rate)
    reward = TRLJudgeReward(script.connect)
    found = await reward(["p"] * 4, ["slow", "fine", "odd", " \n"], log_metric=logged.__setitem__)
    assert found == [None, 0.25, None, None]
    assert reward.unrated == {"UserError": 1, "low_label_mass": 1, "empty_response": 1}
    assert logged == {"judge/unrated": 0.75}
    assert len(script.requests) == 3  # none for the empty one


async def test_an_unavailable_judge_stops_the_training():
    script = ScriptedClient(lambda _: UserError("no judge answers at x"))
    with pytest.raises(TRLRewardError, match="none of 2 completions could be rated: no judge ans"):
        await TRLJudgeReward(script.connect)(["p", "q"], ["a", "b"])


async def test_ratings_over_a_real_socket_are_those_of_the_judge(tmp_path):
    # like_longer: P(rating i) = i/45 or (10-i)/45, so the mean rating is 19/3 or 11/3 of 1 … 9
    async with serving(FakeEngine(), constitutions=(one_principle(tmp_path),)) as server:
        reward = TRLJudgeReward(lambda: AsyncJudgeClient(server.address), "brief")
        found = await reward(["Why?"] * 3, [LONG, SHORT, "  "])
        assert found[:2] == [pytest.approx(1 / 3, abs=1e-6), pytest.approx(-1 / 3, abs=1e-6)]
        assert found[2] is None
        with pytest.raises(TRLRewardError, match="unheard"):
            await TRLJudgeReward(lambda: AsyncJudgeClient(server.address), "unheard")(["a"], ["b"])
