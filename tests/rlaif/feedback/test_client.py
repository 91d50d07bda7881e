"""A judge's scores as a reward, and how it compares a policy with its start."""

import threading
import time
from types import SimpleNamespace

import pytest

from constitution.schema import Message
from judge_service.client.sync import JudgeRequestError, JudgeUnavailable
from judge_service.types import JudgeOptions, Unjudged, UnjudgedReason
from rlaif.data.records import Prompt, Sample
from rlaif.evaluation.comparison import EvaluationError, JudgedPair
from rlaif.feedback import client as judging
from rlaif.feedback.client import JudgeReward, held_out_judge, judge_reward
from rlaif.rewards.mix import Reward
from rlaif.rewards.sources import open_rewards
from tests.support.fakes import FakeEngine, like_longer
from tests.support.service.serving import one_principle
from tests.support.service.thread_server import serving_in_thread

CONVERSATION = (Message(role="user", content="Name a fruit"),)


# ── a judge's scores ─────────────────────────────────────────────────────────────────────────


class RetryClock(threading.local):
    """The time of each thread, which passes only while it waits in vain."""

    now = 0.0


class ScriptedReward:
    """Scores a response by its length; `apart` says what else happens, by response."""

    clock = RetryClock()

    def __init__(self, **apart):
        self.apart = apart
        self.at_once = self.most = 0
        self.lock = threading.Lock()

    def score(self, conversation, response, constitution, options, *, timeout):
        with self.lock:
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        time.sleep(0.01)
        with self.lock:
            self.at_once -= 1
        happens = self.apart.get(response)
        if happens == "late":
            self.clock.now += timeout
            raise JudgeUnavailable("the judge did not answer in time")
        if isinstance(happens, Exception):
            raise happens
        if isinstance(happens, Unjudged):
            return happens
        return _score(len(response) / 10)


def _score(value):
    return type("Scored", (), {"score": value})()


def test_what_the_judge_cannot_score_in_time_is_none_and_counted_by_reason_never_zero(monkeypatch):
    clock = SimpleNamespace(monotonic=lambda: ScriptedReward.clock.now)
    monkeypatch.setattr(judging, "time", clock)
    client = ScriptedReward(
        slow="late",
        mute=Unjudged(UnjudgedReason.LOW_LABEL_MASS, "it wanted to say something else"),
        huge=JudgeRequestError("response: too long"),
        lost=JudgeUnavailable("connection reset"),
    )
    reward = JudgeReward(client, timeout=60)
    responses = ["ab", "slow", "mute", "huge", "lost", "slow"]
    assert reward([CONVERSATION] * 6, responses) == [0.2, None, None, None, None, None]
    assert reward.unscored == {"timed out": 2, "low_label_mass": 1, "refused": 1, "unavailable": 1}
    whole = Reward([("judge:a:1", 1.0, reward)])
    assert whole([CONVERSATION] * 2, ["ab", "slow"]) == [0.2, None]
    assert whole.unscored == {"judge:a:1: timed out": 1}


def test_a_judge_that_is_away_for_all_stops_the_training():
    reward = JudgeReward(ScriptedReward(a=JudgeUnavailable("no judge answers at here:1")))
    with pytest.raises(JudgeUnavailable, match="no judge answers"):
        reward([CONVERSATION] * 2, ["a", "a"])
    assert reward([], []) == []


def test_no_more_scores_are_requested_at_a_time_than_allowed():
    client = ScriptedReward()
    JudgeReward(client, in_flight=3)([CONVERSATION] * 12, ["abc"] * 12)
    assert client.most <= 3


def test_scores_come_over_the_socket_as_ratings_rescaled(tmp_path):
    constitution = one_principle(tmp_path)
    with serving_in_thread(FakeEngine(like_longer), constitutions=(constitution,)) as (address, _):
        with open_rewards(
            [f"judge:{address}"], lambda where: judge_reward(where, "brief")
        ) as reward:
            found = reward([CONVERSATION] * 3, ["short", "a reply of twenty and more", " "])
        # P(rating r) = r/45 for the long one, so E[r] = Σ r²/45 = 285/45, and (E - 5)/4 = 1/3
        assert found == [pytest.approx(-1 / 3), pytest.approx(1 / 3), None]
        assert reward.unscored == {f"judge:{address}: empty_response": 1}
        with pytest.raises(JudgeRequestError, match="nobody"), judge_reward(address, "nobody"):
            pass


# ── the policy beside its start ──────────────────────────────────────────────────────────────

PROMPTS = [Prompt(id=f"q{i}", messages=CONVERSATION) for i in range(4)]


def sampled(prompt, response):
    return Sample(prompt=prompt, index=0, response=response, tokens=1, complete=True, seed=0)


def test_the_held_out_score_is_the_mean_p_over_what_was_judged():
    prob_policy = {"held-out/q0/0": 0.9, "held-out/q1/0": 0.3, "held-out/q2/0": None}
    compared = []

    def compare(questions):
        compared.extend(id for id, *_ in questions)
        return {
            id: JudgedPair(p if p is None or a == "new" else 1 - p)
            for id, _, a, _ in questions
            for p in [prob_policy[id]]
        }

    judge = held_out_judge(compare, [sampled(p, f"start of {p.id}") for p in PROMPTS])
    responses = ["new", "new", "new", "start of q3"]
    assert judge(PROMPTS, responses) == pytest.approx([0.9, 0.3, None, 0.5])  # q3 is the same: ½
    assert compared == list(prob_policy)
    assert judge(PROMPTS[2:3], ["new"]) == [None]


def test_a_held_out_prompt_that_the_start_did_not_answer_is_named():
    judge = held_out_judge(dict, [sampled(PROMPTS[0], "start")])
    with pytest.raises(EvaluationError, match="the start has no response 0 to prompt 'q1'"):
        judge(PROMPTS[:2], ["new", "new"])


def test_the_judge_scores_as_bulk_work_unless_options_say_otherwise():
    seen = []

    class Client:
        def score(self, conversation, response, constitution, options, *, timeout):
            seen.append((constitution, options, timeout))
            return _score(0.0)

    JudgeReward(Client(), "hhh")([CONVERSATION], ["a"])
    JudgeReward(Client(), options=JudgeOptions(sample_principles=2), timeout=5)(
        [CONVERSATION], ["a"]
    )
    assert seen == [
        ("hhh", JudgeOptions(interactive=False), 60.0),
        ("", JudgeOptions(sample_principles=2), 5),
    ]
