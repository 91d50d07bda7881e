"""Reward sources: read, opened, mixed; a reward model shares the policy's base."""

import math
import sys
import textwrap
from contextlib import contextmanager

import pytest
import torch

from constitution.schema import Message
from rlaif.algorithms.ppo import train as ppo
from rlaif.models.backbone import Backbone, LoraConfig
from rlaif.models.reward.heads import RewardHeads
from rlaif.models.reward.weights import Weighing
from rlaif.models.reward_model import RewardModel, reward_function, reward_identity
from rlaif.rewards.base import RewardError
from rlaif.rewards.mix import Reward, mixed
from rlaif.rewards.sources import RewardSource, open_rewards, parse_source
from tests.support.training.ppo_runs import metrics, small

CONVERSATION = (Message(role="user", content="Name a fruit"),)
RESPONSES = ["apple", "", "pear"]


def length(conversations, responses):
    return [float(len(response)) for response in responses]


def nothing_for_empty(conversations, responses):
    return [1.0 if response else None for response in responses]


# ── mixing ───────────────────────────────────────────────────────────────────────────────────


def test_a_mix_is_the_weighted_sum():
    reward = mixed([(2.0, length), (-0.5, lambda c, r: [4] * len(r))])
    assert reward([CONVERSATION] * 2, ["ab", "abc"]) == [2.0, 4.0]
    assert not reward.unscored


def test_a_response_that_one_source_cannot_score_has_no_score_and_is_counted(capsys):
    scored = []

    def watching(conversations, responses):
        scored.extend(responses)
        return [1.0] * len(responses)

    reward = Reward([("length", 1.0, length), ("n", 1.0, nothing_for_empty), ("w", 0.5, watching)])
    assert reward([CONVERSATION] * 3, RESPONSES) == [6.5, None, 5.5]
    assert scored == ["apple", "pear"]  # the others' scores would be of no use
    assert reward([CONVERSATION], [""]) == [None]
    assert reward.unscored == {"n: gave None": 2}
    assert capsys.readouterr().err.count("without a score: n: gave None") == 1


def test_the_reasons_that_a_source_counts_are_kept():
    class Knowing:
        def __init__(self):
            self.unscored = {}

        def __call__(self, conversations, responses):
            self.unscored["timed out"] = self.unscored.get("timed out", 0) + len(responses) - 1
            return [None] * len(responses)

    reward = Reward([("judge:a:1", 1.0, Knowing())])
    assert reward([CONVERSATION] * 3, RESPONSES) == [None] * 3
    assert reward([CONVERSATION] * 2, RESPONSES[:2]) == [None] * 2
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
def test_anything_but_a_list_of_scores_is_an_error_with_its_source(returned, problem):
    reward = Reward([("mine:score", 1.0, lambda c, r: returned)])
    with pytest.raises(RewardError, match="reward mine:score: ") as error:
        reward([CONVERSATION] * 3, RESPONSES)
    assert problem in str(error.value)


def test_tensors_are_scores_too():
    reward = mixed([(1.0, lambda c, r: torch.arange(3.0))])
    assert reward([CONVERSATION] * 3, RESPONSES) == [0.0, 1.0, 2.0]


# ── texts ────────────────────────────────────────────────────────────────────────────────────


def test_a_source_is_read_with_its_weight(tmp_path):
    folder = str(tmp_path)
    assert parse_source(folder) == RewardSource("folder", folder, 1.0, folder)
    assert parse_source(f"0.5*{folder}") == RewardSource("folder", folder, 0.5, folder)
    score, address = "my.module:score", "127.0.0.1:50051"
    assert parse_source(f"-1e-2 * {score}") == RewardSource("callable", score, -0.01, score)
    assert parse_source(f"judge:{address}") == RewardSource(
        "judge", address, 1.0, f"judge:{address}"
    )


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
    with pytest.raises(RewardError) as error:
        parse_source(text)
    assert problem in str(error.value)


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
        assert reward([CONVERSATION] * 2, ["ab", "abcd"]) == pytest.approx([0.2, 0.4])
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
    with pytest.raises(RewardError) as error, open_rewards([text]):
        pass
    assert problem in str(error.value)


def test_a_judge_is_opened_by_what_the_caller_gives_and_closed_again():
    opened = []

    @contextmanager
    def judge(address):
        opened.append(address)
        yield length
        opened.append("closed")

    with open_rewards(["2*judge:here:1"], judge) as reward:
        assert reward([CONVERSATION], ["abc"]) == [6.0]
    assert opened == ["here:1", "closed"]
    with (
        pytest.raises(RewardError, match="a judge is not available here"),
        open_rewards(["judge:here:1"]),
    ):
        pass


# ── reward models ────────────────────────────────────────────────────────────────────────────


def reward_folder(backbone, folder, seed):
    """An untrained reward model, saved: its head is random, so its scores differ."""
    backbone.add_role("reward", LoraConfig(), seed)
    heads = RewardHeads((), backbone.hidden_size)
    heads.randomize(seed)
    RewardModel(backbone, heads, Weighing({}, {})).save(folder)
    return folder


def test_a_reward_model_becomes_a_role_and_a_second_one_is_loaded_apart(
    tiny_model, tmp_path, monkeypatch
):
    folders = [
        reward_folder(Backbone.load(tiny_model, "float32"), tmp_path / f"reward{i}", i)
        for i in range(2)
    ]
    one, two = (
        RewardModel.load(tiny_model, f).overall_scores([CONVERSATION] * 3, RESPONSES)
        for f in folders
    )
    backbone = Backbone.load(tiny_model, "float32")
    backbone.add_role("policy", LoraConfig(), 0)
    loaded: list = []
    load = Backbone.load
    monkeypatch.setattr(Backbone, "load", lambda *a, **k: (loaded.append(a[0]), load(*a, **k))[1])
    with open_rewards([f"0.5*{folders[0]}", f"-2*{folders[1]}"]) as texts:
        reward = reward_function(texts, backbone)
        found = reward([CONVERSATION] * 3, RESPONSES)
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
