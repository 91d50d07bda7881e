"""Run folders made of seeded random numbers, with every kind of stage: what a report is made of."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

from constitution.schema import Message
from judge_service.types import Comparison
from rlaif.data.datasets import read_preferences
from rlaif.data.records import Preference, Prompt, Sample, write_jsonl
from rlaif.evaluation.comparison import EvaluatorModel, JudgedPair, Question
from rlaif.evaluation.intervals import Estimate
from rlaif.evaluation.policies import KL, EvaluationResult, PolicyRun, evaluate
from rlaif.evaluation.reward_models import PairMetrics, RewardEvaluation, evaluate_reward
from rlaif.feedback.labeler import label
from tests.support.feedback.scripted_judge import MODEL, ScriptedJudge

WORDS = ["a", "made", "up", "answer", "of", "some", "words", "without", "any", "meaning"]
KINDS = ("everyday", "support", "borderline", "harmful")
TOPICS = ("work", "travel", "health")

Stages = Sequence[tuple[str, str]]  # (name, kind)
Metrics = Callable[[float], Mapping[str, float]]  # share of the run → metrics

CHAIN: Stages = (
    ("samples", "sample"),
    ("labels", "label"),
    ("sft", "sft"),
    ("reward", "reward"),
    ("dpo", "dpo"),
    ("ppo", "ppo"),
    ("rest", "rest"),
    ("responses", "respond"),
    ("evaluation", "evaluate"),
    ("report", "report"),
)
GRAPH: Stages = (
    ("samples", "sample"),
    ("labels_helpful", "label"),
    ("labels_harmless", "label"),
    ("reward_helpful", "reward"),
    ("reward_harmless", "reward"),
    ("dpo_soft", "dpo"),
    ("dpo_hard", "dpo"),
    ("dpo_on_both_label_files_with_a_long_name", "dpo"),
    ("responses", "respond"),
    ("compare", "evaluate"),
    ("compare_again", "evaluate"),
    ("report", "report"),
)


def made_up_run(run: Path, stages: Stages = CHAIN, prompts: int = 24, extra: str = "") -> Path:
    """A complete run folder, marked as made up. extra: added to every text."""
    random.seed(7)
    run.mkdir(parents=True)
    write_run_file(run, stages)
    questions = [_question(number, extra) for number in range(prompts)]
    policies = [name for name, kind in stages if kind in {"sft", "dpo", "ppo", "rest"}]
    # in order: a reward model is evaluated on labels that an earlier stage wrote
    for name, kind in stages:
        folder = run / name
        folder.mkdir()
        if kind in CURVES:
            write_metrics(folder, CURVES[kind], {50: "kl_over_ceiling"} if kind == "ppo" else {})
        if kind == "sample":
            write_jsonl(folder / "samples.jsonl", _samples(questions, 0.2, extra, n=2))
        elif kind == "label":
            write_labels(folder, questions, extra)
        elif kind == "reward":
            labels = next(run / name for name, kind in stages if kind == "label")
            _reward_evaluation(read_preferences(labels / "preferences.parquet")).save(
                folder / "evaluation.json"
            )
        elif kind == "respond":
            for place, policy in enumerate(["start", *policies]):
                write_jsonl(folder / f"{policy}.jsonl", _samples(questions, place / 2, extra))
        elif kind == "evaluate":
            made_up_evaluation(questions, policies, extra).save(folder / "evaluation.json")
    return run


def write_run_file(run: Path, stages: Stages) -> None:
    facts = {"recipe": "made-up sample run", "policy": "none (made up)", "seed": "7"}
    listed = [{"name": name, "kind": kind} for name, kind in stages]
    (run / "run.json").write_text(json.dumps({"facts": facts, "stages": listed}))


def _question(number: int, extra: str) -> Prompt:
    return Prompt(
        id=f"p{number}",
        messages=(Message(role="user", content=f"Made-up question {number}? {extra}"),),
        topic=TOPICS[number % 3],
        kind=KINDS[number % 4],
    )


def answer() -> str:
    return " ".join(random.choices(WORDS, k=random.randint(3, 60)))


def _samples(questions: Iterable[Prompt], kl: float, extra: str, n: int = 1) -> list[Sample]:
    return [
        Sample(
            prompt=question,
            index=index,
            response=_refusal(question, kl) + answer() + extra,
            tokens=40,
            complete=True,
            seed=0,
        )
        for question in questions
        for index in range(n)
    ]


def _refusal(question: Prompt, kl: float) -> str:
    return "I can't help with that. " if kl > 1 and question.kind == "harmful" else ""


def write_labels(folder: Path, questions: Sequence[Prompt], extra: str = "") -> None:
    """Labels of the scripted judge; the first pair cannot be judged."""
    pairs = [
        Comparison(q.id, q.messages, answer() + extra, "" if place == 0 else answer())
        for place, q in enumerate(questions)
    ]
    label(pairs, ScriptedJudge(), folder)


def _reward_evaluation(labels: Sequence[Preference]) -> RewardEvaluation:
    def scores(mean: float) -> list[float]:
        return [random.gauss(mean, 1) for _ in labels]

    whole = evaluate_reward(labels, scores(0.5), scores(-0.3))
    traits = {
        trait: PairMetrics(**{f.name: getattr(whole, f.name) for f in fields(PairMetrics)})
        for trait in ("helpful", "honest")
    }
    return replace(whole, traits=traits)


CURVES: Mapping[str, Metrics] = {
    "sft": lambda t: {"loss": 2.5 - t, "heldout_loss": 2.6 - 0.8 * t},
    "reward": lambda t: {"loss": 0.7 - 0.2 * t, "accuracy": 0.5 + 0.3 * t},
    "dpo": lambda t: {"loss": 0.693 - 0.1 * t, "margin": t, "accuracy": 0.5 + t / 4},
    "rest": lambda t: {
        "score": round(2 * t) / 2,
        "threshold": round(4 * t) / 4,
        "loss": 2 - t,
        "response_length": 50,
        "eos_rate": 0.9,
        "distinct_2": 0.8,
    },
    "ppo": lambda t: {
        "score": t,
        "judge_score": 0.5 + t / 5 - t * t / 4,
        "kl_k1": 3 * t,
        "response_length": 60 + 9 * t,
        "eos_rate": 0.9,
        "entropy": 3 - t,
        "distinct_2": 0.9 - 0.3 * t,
        "clip_fraction": 0.1,
        "explained_variance": t / 2,
    },
}


def write_metrics(folder: Path, at: Metrics, alarms: Mapping[int, str]) -> None:
    """60 noisy steps; held-out and judge metrics every tenth. alarms: first step → name."""
    with (folder / "metrics.jsonl").open("w") as out:
        for step in range(1, 61):
            noisy = {
                key: value + random.gauss(0, 0.03)
                for key, value in at(step / 60).items()
                if step % 10 == 0 or not key.startswith(("held", "judge"))
            }
            active = [name for since, name in alarms.items() if step >= since]
            out.write(json.dumps({"step": step, **noisy, "alarms": active}) + "\n")


def made_up_evaluation(
    questions: Sequence[Prompt], policies: Sequence[str], extra: str = ""
) -> EvaluationResult:
    """Random verdicts of the model that also labeled; question 3 could not be judged."""
    evaluator = EvaluatorModel(MODEL.name, MODEL.weights_sha256, "hhh 1.0.0")

    def run(name: str, kl: float) -> PolicyRun:
        samples = _samples(questions, kl, extra)
        rewards = [random.gauss(kl, 1) for _ in samples]
        estimate = Estimate(kl, kl - 0.1, kl + 0.1, len(samples))
        return PolicyRun(name, samples, rewards, KL(estimate, estimate) if kl else None, 90.0)

    def compare(questions: Sequence[Question]) -> dict[str, JudgedPair]:
        return {
            id: JudgedPair(None, "too_long", evaluator=evaluator)
            if id.endswith("p3/0")
            else JudgedPair(
                random.random(), "", {"helpful": random.random(), "honest": 0.4}, evaluator
            )
            for id, *_ in questions
        }

    trained = [run(name, 0.2 + 0.5 * place) for place, name in enumerate(policies)]
    return evaluate(run("start", 0), trained, compare)
