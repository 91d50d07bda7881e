"""A scripted judge of held-out responses: when the policy goes back to its best, and the end."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from constitution.schema import Message
from rlaif.algorithms.ppo.evaluation import split_off
from rlaif.algorithms.ppo.train import train
from rlaif.batching.encode import EncodedPrompt
from rlaif.data.prompt_split import text_of
from rlaif.data.records import Prompt
from rlaif.training.config import TrainingError
from rlaif.training.run import Run
from tests.support.training.ppo_runs import count_x, metrics, small

ASIDE = 24  # held-out prompts: enough to tell a fall in five evaluations


@pytest.fixture
def questions():
    return [
        Prompt(id=f"q{i}", messages=(Message(role="user", content=f"Say {i}"),)) for i in range(28)
    ]


class ScriptedScores:
    """Says the scores one after the other, of every prompt, and keeps what it was asked."""

    def __init__(self, *scores: float | None) -> None:
        self.scores = list(scores)
        self.asked: list[list[str]] = []
        self.answers: list[list[str]] = []

    def __call__(self, prompts, responses):
        self.asked.append([p.id for p in prompts])
        self.answers.append(list(responses))
        score = self.scores[len(self.asked) - 1]
        return [score and score + 0.001 * (7 * i % 5 - 2) for i in range(len(prompts))]


def judged(**settings):
    return small(
        prompts_per_iteration=3, max_new_tokens=4, eval_every=1, eval_prompts=ASIDE,
        learning_rate=0.01, warmup=0.0, **settings,
    )  # fmt: skip


def weights_at(out, step):
    saved = torch.load(out / f"checkpoints/step-{step:06d}.pt", weights_only=True)
    return saved["learner"]["parameters"]


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_policy_that_got_worse_goes_back_to_its_best(tiny_model, questions, tmp_path):
    script = ScriptedScores(0.5, 0.7, 0.7, 0.6, 0.8)
    config = judged(iterations=5, keep_checkpoints=9)
    out = train(config, tiny_model, questions, count_x, tmp_path, judge=script)
    lines = metrics(out)
    assert [m["judge_score"] for m in lines] == pytest.approx([0.5, 0.7, 0.7, 0.6, 0.8], abs=1e-3)
    assert [m["judge_fall"] for m in lines][1:] == pytest.approx([-0.2, 0, 0.1, -0.1], abs=1e-9)
    assert [m["rollback"] for m in lines] == [0, 0, 0, 1, 0]
    assert same(weights_at(out, 4), weights_at(out, 2))
    assert not same(weights_at(out, 3), weights_at(out, 2))
    assert not same(weights_at(out, 5), weights_at(out, 4))  # and goes on from there
    assert [m["learning_rate"] for m in lines] == pytest.approx([0.01, 0.008, 0.006, 0.004, 0.002])


def test_a_second_rollback_to_the_same_best_is_the_end(tiny_model, questions, tmp_path, capsys):
    script = ScriptedScores(0.7, 0.6, 0.6, 0.9)
    config = judged(iterations=5, keep_checkpoints=9)
    out = train(config, tiny_model, questions, count_x, tmp_path, judge=script)
    assert [m["rollback"] for m in metrics(out)] == [0, 1, 1]
    reported = capsys.readouterr().err
    assert "iteration 3: judged worse than at its best (0.700, iteration 1), beyond" in reported
    assert "training ends, since this is the second time" in reported
    assert same(weights_at(out, 3), weights_at(out, 1))
    left = load_file(out / "adapter_model.safetensors")
    best = {n: p for n, p in weights_at(out, 1).items() if ".policy." in n}
    assert len(left) == len(best)
    for name, tensor in best.items():
        (found,) = (t for n, t in left.items() if n.endswith(name.replace(".policy.", ".")))
        assert torch.equal(found, tensor)
    train(config, tiny_model, questions, count_x, tmp_path, judge=script)  # called again: no more
    assert len(script.asked) == 3


def test_held_out_prompts_are_never_trained_on_and_sampled_with_the_same_seeds(
    tiny_model, questions, tmp_path
):
    seen: set[str] = set()

    def score(conversations, responses):
        seen.update(c[-1].content for c in conversations)
        return count_x(conversations, responses)

    script = ScriptedScores(*[0.5] * 6)
    config = judged(iterations=6).model_copy(update={"learning_rate": 1e-9})
    train(config, tiny_model, questions, score, tmp_path, judge=script)
    aside = {p.messages[-1].content for p in questions if p.id in script.asked[0]}
    assert len(aside) == ASIDE
    assert not aside & seen
    assert len(seen) == 4
    assert all(answers == script.answers[0] for answers in script.answers)


def test_a_judge_without_a_score_is_ignored_and_logged_as_none(tiny_model, questions, tmp_path):
    config = judged(iterations=3)
    out = train(
        config, tiny_model, questions, count_x, tmp_path, judge=ScriptedScores(0.6, None, 0.5)
    )
    assert [m["judge_score"] for m in metrics(out)] == [
        pytest.approx(0.6, abs=1e-3), None, pytest.approx(0.5, abs=1e-3),
    ]  # fmt: skip
    assert [m["rollback"] for m in metrics(out)] == [0, 0, 1]


def test_a_kill_amid_falling_scores_changes_nothing(tiny_model, questions, tmp_path, monkeypatch):
    config = judged(iterations=5)
    scores = {1: 0.5, 2: 0.7, 3: 0.7, 4: 0.6, 5: 0.8}

    def run(out, start):
        script = ScriptedScores(*[scores[step] for step in range(start, 6)])
        train(config, tiny_model, questions, count_x, out, judge=script)

    run(tmp_path / "whole", 1)
    log = Run.log
    with monkeypatch.context() as patch:

        def killed(self, step, line):
            log(self, step, line)
            if step == 4:
                raise InterruptedError

        patch.setattr(Run, "log", killed)
        with pytest.raises(InterruptedError):
            run(tmp_path / "parts", 1)
    run(tmp_path / "parts", 4)
    one, other = (load_file(tmp_path / n / "adapter_model.safetensors") for n in ("whole", "parts"))
    assert same(one, other)
    assert [m["rollback"] for m in metrics(tmp_path / "parts")] == [0, 0, 0, 1, 0]


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        (lambda p, r: [1.5] * len(r), "returned 1.5; expected a probability"),
        (lambda p, r: 0.5, "returned 0.5; expected one probability or None for each of 24"),
        (lambda p, r: {}["x"], "the judge of held-out responses raised KeyError: 'x'"),
    ],
)
def test_a_judge_that_cannot_be_used_is_a_clear_error(
    judge, message, tiny_model, questions, tmp_path
):
    with pytest.raises(TrainingError, match=message):
        train(judged(), tiny_model, questions, count_x, tmp_path, judge=judge)


def test_setting_aside_every_prompt_is_refused(tiny_model, questions, tmp_path):
    config = judged().model_copy(update={"eval_prompts": 28})
    with pytest.raises(TrainingError, match="eval_prompts=28 of 28 usable prompts leaves none"):
        train(config, tiny_model, questions, count_x, tmp_path, judge=ScriptedScores())


def test_too_few_held_out_prompts_are_reported_and_never_roll_back(
    tiny_model, questions, tmp_path, capsys
):
    config = judged(iterations=3).model_copy(update={"eval_prompts": 4})
    script = ScriptedScores(0.9, 0.1, 0.1)
    out = train(config, tiny_model, questions, count_x, tmp_path, judge=script)
    assert [m["rollback"] for m in metrics(out)] == [0, 0, 0]
    said = capsys.readouterr().err
    assert "eval_prompts=4 cannot tell a fall of 0.05 from chance in 3 evaluations" in said


def test_prompts_of_equal_text_are_never_on_both_sides():
    texts = ["a", "b", "A", "c", "b ", "d"]
    encoded = [
        EncodedPrompt(Prompt(id=f"q{i}", messages=(Message(role="user", content=t),)), (1,))
        for i, t in enumerate(texts)
    ]
    for seed in range(20):
        train, heldout = split_off(encoded, 2, seed)
        sides = [{text_of(each.prompt) for each in side} for side in (train, heldout)]
        assert len(heldout) == len(sides[1]) == 2
        assert not sides[0] & sides[1]
        assert len(sides[0]) == 2, "all other texts are trained on"
    with pytest.raises(TrainingError, match="eval_prompts=4 of 4 usable prompts leaves none"):
        split_off(encoded, 4, 0)
