"""The grammar, the tiny policy and the table of benchmarks/planted."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.planted import paired, rounds, table
from benchmarks.planted.arms import ARMS
from benchmarks.planted.grammar import HARMFUL, HARMLESS, dialogs, prompt_text, prompts
from benchmarks.planted.policy import save_policy
from benchmarks.planted.table import CellResult
from judge_service.planted.file import PlantedJudge
from judge_service.planted.gold import is_harmful
from tests.support.planted.judges import ROOT, ask

RESULT = CellResult(
    judge="planted:judge", arm="sft", accuracy=0.8, length_bias=0.0, seed=0, label_accuracy=0.8,
    reward_accuracy=None, gold=0.6, gain=0.1, length_ratio=1.2, seconds=3.0,
)  # fmt: skip


def test_prompts_are_harmful_by_the_gold_rule_exactly_where_the_grammar_says() -> None:
    draw = random.Random(0)
    assert len(HARMFUL) == len(HARMLESS)
    for _ in range(200):
        assert is_harmful(ask(prompt_text(draw, harmful=True)))
        assert not is_harmful(ask(prompt_text(draw, harmful=False)))


def test_every_trait_is_there_in_a_part_of_the_lessons() -> None:
    gold = PlantedJudge.load(ROOT / "benchmarks" / "planted" / "judge.yaml").gold
    found = [gold.principles(ask(question), text) for question, text in dialogs(2000, seed=1)]
    for principle in found[0]:
        rate = sum(each[principle] for each in found) / len(found)
        assert 0.3 < rate < 0.75, principle


def test_prompts_are_distinct_and_the_same_for_a_seed() -> None:
    made = prompts(60, 30, seed=3)
    assert len({prompt.messages for prompt in made}) == 90
    assert [prompt.split for prompt in made].count("heldout") == 30
    assert made == prompts(60, 30, seed=3)
    assert made != prompts(60, 30, seed=4)


def test_the_policy_has_a_million_weights_and_learns_from_the_first_steps(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    untrained = save_policy(tmp_path / "one", steps=2)
    trained = save_policy(tmp_path / "two", steps=25)
    assert trained < untrained - 1.0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "two")
    assert 1_000_000 < model.num_parameters() < 3_000_000


@pytest.mark.parametrize("accuracy", table.ACCURACIES)
def test_the_judge_of_a_cell_is_right_as_often_as_asked(tmp_path: Path, accuracy: float) -> None:
    table.write_judge(tmp_path / "judge.yaml", accuracy, length_bias=0.5, seed=7)
    errors = PlantedJudge.load(tmp_path / "judge.yaml").errors
    assert sum(errors.annotators) / len(errors.annotators) == pytest.approx(accuracy)
    assert (errors.seed, errors.length_bias, errors.flip) == (7, 0.5, 0.0)


def test_the_table_says_planted_and_has_intervals_over_seeds() -> None:
    printed = table.table([RESULT, RESULT.model_copy(update={"seed": 1, "gain": 0.3})])
    assert printed.startswith("Planted judge (simulated by rules, no model): gain in gold")
    assert "| sft | +0.200 [-1.071, +1.471] n=2 |" in printed
    assert "labels right 80%" in printed
    assert "dpo_soft" not in printed


def test_a_finished_cell_is_read_and_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def prepared(out: Path, accuracy: float, length_bias: float, seed: int) -> object:
        return table.Cell(tmp_path / "cell", tmp_path, tmp_path, tmp_path, seed)

    def measured(cell: table.Cell, arm: str, accuracy: float, length_bias: float) -> CellResult:
        ran.append(arm)
        return RESULT.model_copy(update={"arm": arm, "seed": cell.seed})

    monkeypatch.setattr(table, "prepared", prepared)
    monkeypatch.setattr(table, "measured", measured)
    first = table.run(tmp_path, tmp_path / "r.jsonl", ["sft", "rest"], [0.8], 2, 0.0)
    assert ran == ["sft", "rest"] * 2
    assert table.run(tmp_path, tmp_path / "r.jsonl", ["sft", "rest"], [0.8], 2, 0.0) == first
    assert len(ran) == 4
    assert {result.arm for result in first} <= ARMS.keys()


def test_arms_are_compared_by_seed_and_over_accuracies_on_average():
    cells = [
        ("dpo_soft", 0.6, 0, 0.5), ("sft", 0.6, 0, 0.1), ("dpo_soft", 0.9, 0, 0.3),
        ("sft", 0.9, 0, 0.1), ("dpo_soft", 0.6, 1, 0.2), ("sft", 0.6, 1, 0.2),
    ]  # fmt: skip
    results = [
        RESULT.model_copy(update=dict(zip(("arm", "accuracy", "seed", "gain"), cell, strict=True)))
        for cell in cells
    ]
    assert paired.differences(results, "dpo_soft", "sft", [0.6]) == pytest.approx([0.4, 0.0])
    assert paired.differences(results, "dpo_soft", "sft", [0.6, 0.9]) == pytest.approx([0.3])
    printed = paired.paired_table(results)
    assert "Planted judge (simulated by rules, no model)" in printed
    assert "| dpo_soft - sft | +0.200 [-2.341, +2.741] | +0.200 | +0.300 |" in printed


ROUND = rounds.RoundFigures(
    gold=0.6, gold_gain=0.1, gap=0.2, reward_wins=0.8, gold_wins=0.6, judge=0.6, second=0.7, kl=2.0,
    tokens=30.0,
)  # fmt: skip


def rounds_arm(start: str, seed: int, gap: float) -> rounds.RoundsArm:
    last = ROUND.model_copy(update={"gold": 0.6 + 0.1 * seed, "gap": gap})
    return rounds.RoundsArm(
        judge="planted:judge", method="dpo", start=start, seed=seed, rounds=(ROUND, ROUND, last),
        seconds=1.0, cpu_seconds=1.0,
    )  # fmt: skip


def test_rounds_say_planted_and_compare_rounds_and_starts_over_seeds() -> None:
    arms = [rounds_arm("base", 0, 0.1), rounds_arm("base", 1, 0.2),
            rounds_arm("last", 0, 0.3), rounds_arm("last", 1, 0.4)]  # fmt: skip
    printed = rounds.table(arms)
    assert printed.startswith("Planted judges (simulated by rules, no model; flip 0.3, length bias")
    assert "dpo, start: base: gold of round 3 less round 1 +0.050 [-0.585, +0.685]" in printed
    assert "last less base in the last round: gap +0.200 [+0.200, +0.200], gold +0.000" in printed
    assert "| dpo | last | 3 |" in printed


def test_rounds_of_an_arm_are_a_recipe_whose_judges_err_as_asked(tmp_path: Path) -> None:
    from rlaif.pipeline.graph import build_graph

    (tmp_path / "policy").mkdir()
    (tmp_path / "seed-3").mkdir()
    for name, seed in (("judge", 3), ("second", 10_003)):
        rounds.write_judge(tmp_path / "seed-3" / f"{name}.yaml", seed)
    errors = PlantedJudge.load(tmp_path / "seed-3" / "judge.yaml").errors
    assert (errors.flip, errors.length_bias, errors.annotators) == (0.3, 0.2, (1.0,))
    for method in rounds.METHODS:
        graph = build_graph(rounds.arm_recipe(tmp_path, method, "last", seed=3), tmp_path / "run")
        stage = graph[f"round-03/{method}"]
        assert stage.source("model").text == f"round-02/{method}"
        assert stage.settings.seed == 3


def test_rounds_that_are_finished_are_read_and_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def measured(out: Path, method: str, start: str, seed: int) -> rounds.RoundsArm:
        ran.append(f"{method}-{start}-{seed}")
        (out / f"seed-{seed}" / f"{method}-{start}").mkdir(parents=True)
        return rounds_arm(start, seed, 0.1)

    monkeypatch.setattr(rounds, "measured", measured)
    results, starts = tmp_path / "r.jsonl", ["base", "last"]
    first = rounds.run(tmp_path, results, ["dpo"], starts, [0, 1])
    assert ran == ["dpo-base-0", "dpo-last-0", "dpo-base-1", "dpo-last-1"]
    assert rounds.run(tmp_path, results, ["dpo"], starts, [0, 1]) == first
    assert len(ran) == 4


def test_rounds_that_die_in_an_arm_leave_the_table_of_the_arms_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def measured(out: Path, method: str, start: str, seed: int) -> rounds.RoundsArm:
        asked.append(f"{start}-{seed}")
        if len(asked) == 3:
            raise KeyboardInterrupt
        (out / f"seed-{seed}" / f"{method}-{start}").mkdir(parents=True)
        return rounds_arm(start, seed, 0.1)

    monkeypatch.setattr(rounds, "measured", measured)
    results, starts, seeds = tmp_path / "r.jsonl", ["base", "last"], rounds.seeds_of("4..5")
    with pytest.raises(KeyboardInterrupt):
        rounds.run(tmp_path, results, ["dpo"], starts, seeds)
    so_far = (tmp_path / "r.md").read_text()
    assert so_far.startswith("2 of 4 arms.")
    assert "last less base in the last round: gap +0.000, gold +0.000, 1 seeds" in so_far
    rounds.run(tmp_path, results, ["dpo"], starts, seeds)
    assert asked == ["base-4", "last-4", "base-5", "base-5", "last-5"]
    assert (tmp_path / "r.md").read_text().startswith("4 of 4 arms.")


def test_rounds_take_a_count_of_seeds_or_the_first_and_the_last() -> None:
    assert [*rounds.seeds_of("3")] == [0, 1, 2]
    assert [*rounds.seeds_of("4..5")] == [4, 5]
    for wrong in ("0", "5..4", "..4", "a"):
        with pytest.raises(ValueError, match=r".+"):
            rounds.seeds_of(wrong)
