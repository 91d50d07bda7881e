import asyncio
import math
import sys
import textwrap
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from constitution.schema import Message
from judge_service.client.sync import JudgeRequestError, JudgeUnavailable
from judge_service.server.app import JudgeServer
from judge_service.settings import ServerSettings
from judge_service.types import JudgeOptions, Unjudged, UnjudgedReason
from rlaif.algorithms.ppo import train as ppo
from rlaif.data.records import Prompt, Sample
from rlaif.evaluation.policies import EvaluationError, JudgedPair
from rlaif.feedback import client as judging
from rlaif.feedback.client import JudgeReward, held_out_judge, judge_reward
from rlaif.models.backbone import Backbone, LoraConfig
from rlaif.models.reward_model import Heads, RewardModel, reward_function, reward_identity
from rlaif.rewards.base import RewardError
from rlaif.rewards.mix import Reward, mixed
from rlaif.rewards.sources import RewardSource, open_rewards, parse_source
from tests.support.fakes import FakeEngine, like_longer
from tests.support.service.serving import one_principle
from tests.support.training.ppo_runs import metrics, small

ASKED = (Message(role="user", content="Name a fruit"),)
SAID = ["apple", "", "pear"]


def length(conversations, responses):
    return [float(len(response)) for response in responses]


def nothing_for_empty(conversations, responses):
    return [1.0 if response else None for response in responses]


# ── mixing ───────────────────────────────────────────────────────────────────────────────────


def test_a_mix_is_the_weighted_sum():
    reward = mixed([(2.0, length), (-0.5, lambda c, r: [4] * len(r))])
    assert reward([ASKED] * 2, ["ab", "abc"]) == [2.0, 4.0]
    assert not reward.unscored


def test_a_response_that_one_source_cannot_score_has_no_score_and_is_counted(capsys):
    asked = []

    def watching(conversations, responses):
        asked.extend(responses)
        return [1.0] * len(responses)

    reward = Reward([("length", 1.0, length), ("n", 1.0, nothing_for_empty), ("w", 0.5, watching)])
    assert reward([ASKED] * 3, SAID) == [6.5, None, 5.5]
    assert asked == ["apple", "pear"]  # the others' scores would be of no use
    assert reward([ASKED], [""]) == [None]
    assert reward.unscored == {"n: gave None": 2}
    assert capsys.readouterr().err.count("without a score: n: gave None") == 1


def test_a_source_that_knows_why_is_quoted():
    class Knowing:
        def __init__(self):
            self.unscored = {}

        def __call__(self, conversations, responses):
            self.unscored["timed out"] = self.unscored.get("timed out", 0) + len(responses) - 1
            return [None] * len(responses)

    reward = Reward([("judge:a:1", 1.0, Knowing())])
    assert reward([ASKED] * 3, SAID) == [None] * 3
    assert reward([ASKED] * 2, SAID[:2]) == [None] * 2
    assert reward.unscored == {"judge:a:1: timed out": 3, "judge:a:1: gave None": 2}


def test_no_source_at_all_is_refused():
    with pytest.raises(RewardError, match="no reward is given"):
        mixed([])


@pytest.mark.parametrize(
    ("returned", "problem"),
    [
        (None, "returned None, not a list"),
        (3.0, "returned 3.0, not a list"),
        ("abc", "returned 'abc', not a list"),
        ([1.0, 2.0], "returned 2 scores for 3 responses"),
        ([1.0, "2", 3.0], "'2' is not a finite number"),
        ([1.0, math.nan, 3.0], "nan is not a finite number"),
        ([1.0, [2.0, 3.0], 3.0], "is not a finite number"),
    ],
)
def test_what_is_no_list_of_scores_is_named_with_its_source(returned, problem):
    reward = Reward([("mine:score", 1.0, lambda c, r: returned)])
    with pytest.raises(RewardError, match="reward mine:score: ") as told:
        reward([ASKED] * 3, SAID)
    assert problem in str(told.value)


def test_tensors_are_scores_too():
    reward = mixed([(1.0, lambda c, r: torch.arange(3.0))])
    assert reward([ASKED] * 3, SAID) == [0.0, 1.0, 2.0]


# ── texts ────────────────────────────────────────────────────────────────────────────────────


def test_a_source_is_read_with_its_weight(tmp_path):
    folder = str(tmp_path)
    assert parse_source(folder) == RewardSource("folder", folder, 1.0)
    assert parse_source(f"0.5*{folder}") == RewardSource("folder", folder, 0.5)
    assert parse_source("-1e-2 * my.module:score") == RewardSource(
        "callable", "my.module:score", -0.01
    )
    assert parse_source("judge:127.0.0.1:50051") == RewardSource("judge", "127.0.0.1:50051", 1.0)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("half*runs/reward", "invalid reward 'half*runs/reward': expected SOURCE or WEIGHT*SOURCE"),
        ("0*runs/reward", "with WEIGHT a number other than 0"),
        ("nan*runs/reward", "invalid reward 'nan*runs/reward'"),
        (
            "runs/nowhere",
            "unknown source 'runs/nowhere'; give judge:HOST:PORT, a reward model's folder, or ",
        ),
    ],
)
def test_a_text_that_names_no_source_is_refused(text, problem):
    with pytest.raises(RewardError) as told:
        parse_source(text)
    assert problem in str(told.value)


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "own_scores.py").write_text(
        textwrap.dedent("""
            def score(conversations, responses):
                return [len(response) for response in responses]

            LIMIT = 3
        """)
    )
    (tmp_path / "broken_scores.py").write_text("import no_such_module_at_all\n")
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("own_scores", None)


def test_a_function_of_a_module_in_the_working_folder_is_found(own_module):
    paths = sys.path.copy()
    with open_rewards(["0.1*own_scores:score"]) as reward:
        assert reward([ASKED] * 2, ["ab", "abcd"]) == pytest.approx([0.2, 0.4])
    assert sys.path == paths


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("no_such_module:f", "module 'no_such_module' cannot be imported (ModuleNotFoundError"),
        ("broken_scores:f", "No module named 'no_such_module_at_all'"),
        ("own_scores:other", "'own_scores' has no 'other'"),
        ("own_scores:LIMIT", "is a int, not a function"),
    ],
)
def test_a_callable_that_cannot_be_had_is_named(own_module, text, problem):
    with pytest.raises(RewardError) as told, open_rewards([text]):
        pass
    assert problem in str(told.value)


def test_a_judge_is_opened_by_what_the_caller_gives_and_closed_again():
    opened = []

    @contextmanager
    def judge(address):
        opened.append(address)
        yield length
        opened.append("closed")

    with open_rewards(["2*judge:here:1"], judge) as reward:
        assert reward([ASKED], ["abc"]) == [6.0]
    assert opened == ["here:1", "closed"]
    with (
        pytest.raises(RewardError, match="no judge can be asked here"),
        open_rewards(["judge:here:1"]),
    ):
        pass


# ── reward models ────────────────────────────────────────────────────────────────────────────


def reward_folder(backbone, folder, seed):
    """An untrained reward model, saved: its head is random, so its scores differ."""
    backbone.add_role("reward", LoraConfig(), seed)
    heads = Heads(["overall"], backbone.hidden_size)
    heads.randomize(seed)
    RewardModel(backbone, heads, {"overall": 1.0}).save(folder)
    return folder


def test_a_reward_model_becomes_a_role_and_a_second_one_is_loaded_apart(
    tiny_model, tmp_path, monkeypatch
):
    folders = [
        reward_folder(Backbone.load(tiny_model, "float32"), tmp_path / f"reward{i}", i)
        for i in range(2)
    ]
    one, two = (RewardModel.load(tiny_model, f).overall_scores([ASKED] * 3, SAID) for f in folders)
    backbone = Backbone.load(tiny_model, "float32")
    backbone.add_role("policy", LoraConfig(), 0)
    loaded: list = []
    load = Backbone.load
    monkeypatch.setattr(Backbone, "load", lambda *a, **k: (loaded.append(a[0]), load(*a, **k))[1])
    with open_rewards([f"0.5*{folders[0]}", f"-2*{folders[1]}"]) as texts:
        reward = reward_function(texts, backbone)
        found = reward([ASKED] * 3, SAID)
    assert loaded == [tiny_model]  # the second's base; the first has none of its own
    assert backbone.role_parameters("reward")
    assert found[1] is None
    assert found[0] == pytest.approx(0.5 * one[0] - 2 * two[0], abs=1e-5)
    assert reward.unscored == {f"{folders[0]}: empty_response": 1}
    assert reward_identity(reward) == reward_identity(texts)


@pytest.mark.parametrize("lora", [LoraConfig(), None])
def test_in_a_mix_a_reward_model_shares_the_policys_base(
    lora, tiny_model, questions, tmp_path, monkeypatch
):
    """With adapters no base is loaded but the policy's; in full fine-tuning, but its frozen copy's.
    The scores are those of the reward model alone, weighed."""
    folder = reward_folder(Backbone.load(tiny_model, "float32"), tmp_path / "reward", 0)
    loaded: list = []
    load = Backbone.load
    monkeypatch.setattr(Backbone, "load", lambda *a, **k: (loaded.append(a[0]), load(*a, **k))[1])
    config = small(iterations=1, lora=lora)
    (alone,) = metrics(ppo.train(config, tiny_model, questions, folder, tmp_path / "alone"))
    bases = len(loaded)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "three_rewards.py").write_text("def three(c, r):\n    return [3.0] * len(r)\n")
    with open_rewards([f"-2*{folder}", "three_rewards:three"]) as reward:
        (mixed_in,) = metrics(ppo.train(config, tiny_model, questions, reward, tmp_path / "mix"))
    assert len(loaded) == 2 * bases
    assert bases == (1 if lora else 2)
    assert mixed_in["score"] == pytest.approx(3 - 2 * alone["score"], abs=1e-4)


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
    said = ["ab", "slow", "mute", "huge", "lost", "slow"]
    assert reward([ASKED] * 6, said) == [0.2, None, None, None, None, None]
    assert reward.unscored == {"timed out": 2, "low_label_mass": 1, "refused": 1, "unavailable": 1}
    whole = Reward([("judge:a:1", 1.0, reward)])
    assert whole([ASKED] * 2, ["ab", "slow"]) == [0.2, None]
    assert whole.unscored == {"judge:a:1: timed out": 1}


def test_a_judge_that_is_away_for_all_stops_the_training():
    reward = JudgeReward(ScriptedReward(a=JudgeUnavailable("no judge answers at here:1")))
    with pytest.raises(JudgeUnavailable, match="no judge answers"):
        reward([ASKED] * 2, ["a", "a"])
    assert reward([], []) == []


def test_no_more_scores_are_asked_at_a_time_than_allowed():
    client = ScriptedReward()
    JudgeReward(client, in_flight=3)([ASKED] * 12, ["abc"] * 12)
    assert client.most <= 3


@contextmanager
def judge_server(**values):
    """The address of a real server over a scripted engine."""
    settings = ServerSettings(model="fake", port=0, grace_seconds=0, **values)
    ready, stop, address = threading.Event(), threading.Event(), []

    async def live():
        server = JudgeServer(settings, FakeEngine(like_longer))
        await server.start()
        await server.load()
        address.append(server.address)
        ready.set()
        while not stop.is_set():
            await asyncio.sleep(0.01)
        await server.stop()

    thread = threading.Thread(target=lambda: asyncio.run(live()))
    thread.start()
    try:
        assert ready.wait(120)
        yield address[0]
    finally:
        stop.set()
        thread.join(120)


def test_scores_come_over_the_socket_as_ratings_rescaled(tmp_path):
    law = one_principle(tmp_path)
    with judge_server(constitutions=(law,)) as address:
        with open_rewards(
            [f"judge:{address}"], lambda where: judge_reward(where, "brief")
        ) as reward:
            found = reward([ASKED] * 3, ["short", "a reply of twenty and more", " "])
        # P(rating r) = r/45 for the long one, so E[r] = Σ r²/45 = 285/45, and (E - 5)/4 = 1/3
        assert found == [pytest.approx(-1 / 3), pytest.approx(1 / 3), None]
        assert reward.unscored == {f"judge:{address}: empty_response": 1}
        with pytest.raises(JudgeRequestError, match="nobody"), judge_reward(address, "nobody"):
            pass


# ── the policy beside its start ──────────────────────────────────────────────────────────────

PROMPTS = [Prompt(id=f"q{i}", messages=ASKED) for i in range(4)]


def sampled(prompt, response):
    return Sample(prompt=prompt, index=0, response=response, tokens=1, complete=True, seed=0)


def test_the_held_out_score_is_the_mean_p_over_what_was_judged():
    prob_policy = {"held-out/q0/0": 0.9, "held-out/q1/0": 0.3, "held-out/q2/0": None}
    asked = []

    def compare(questions):
        asked.extend(id for id, *_ in questions)
        return {
            id: JudgedPair(p if p is None or a == "new" else 1 - p)
            for id, _, a, _ in questions
            for p in [prob_policy[id]]
        }

    judge = held_out_judge(compare, [sampled(p, f"start of {p.id}") for p in PROMPTS])
    said = ["new", "new", "new", "start of q3"]
    assert judge(PROMPTS, said) == pytest.approx((0.9 + 0.3 + 0.5) / 3)  # q3 is the same: ½
    assert asked == list(prob_policy)
    assert judge(PROMPTS[2:3], ["new"]) is None


def test_a_held_out_prompt_that_the_start_did_not_answer_is_named():
    judge = held_out_judge(dict, [sampled(PROMPTS[0], "start")])
    with pytest.raises(EvaluationError, match="the start has no response 0 to prompt 'q1'"):
        judge(PROMPTS[:2], ["new", "new"])


def test_the_judge_is_asked_as_bulk_work_unless_told_otherwise():
    seen = []

    class Client:
        def score(self, conversation, response, constitution, options, *, timeout):
            seen.append((constitution, options, timeout))
            return _score(0.0)

    JudgeReward(Client(), "hhh")([ASKED], ["a"])
    JudgeReward(Client(), options=JudgeOptions(sample_principles=2), timeout=5)([ASKED], ["a"])
    assert seen == [
        ("hhh", JudgeOptions(interactive=False), 60.0),
        ("", JudgeOptions(sample_principles=2), 5),
    ]


def test_a_run_resumed_with_other_rewards_is_noticed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "noticed_rewards.py").write_text("def f(c, r):\n    return [0.0] * len(r)\n")

    def identity(*texts):
        with open_rewards(texts) as reward:
            return reward_identity(reward)

    plain, weighed = identity("noticed_rewards:f"), identity("0.5*noticed_rewards:f")
    assert plain == identity("noticed_rewards:f")
    assert plain != weighed != identity("0.5*noticed_rewards:f", "noticed_rewards:f")
    assert reward_identity(lambda c, r: []) == "callable"
