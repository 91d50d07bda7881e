"""Rounds on a planted judge that errs: whether gold still rises, and who overrates it.

    python -m benchmarks.planted.rounds OUT                          # 8 seeds, 3 rounds
    python -m benchmarks.planted.rounds OUT --seeds 2 --methods dpo --starts base
    python -m benchmarks.planted.rounds OUT --seeds 4..7             # from 4 to 7

Labels are flipped in 30 % of pairs, no less certainly, and longer responses are favored (length
bias 0.2). In each round the policy answers prompts that no round has seen, the judge labels them,
and a reward model and the policy are trained on the labels of all rounds: from the first model
(base), or from the policy of the round before (last). So that every round is run, nothing stops
them; a second planted judge, whose errors are others, compares them.

    gold    mean gold score of the policy's responses to held-out prompts, 0 to 1
    gap     share of prompts on which the reward model prefers the policy's response to the start's,
            less the same share by gold: what the reward model only believes

Each arm (method, start, seed) is a recipe with `rounds:` in OUT, which goes on where it was killed;
a finished one is a line of RESULTS at once, and is not run again. Beside RESULTS, a file with the
ending .md has the table of all arms that are finished so far. Intervals: Student's t over seeds.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml
from pydantic import BaseModel
from rich.console import Console

from benchmarks.planted.arms import RATES, SHORT, WHOLE
from benchmarks.planted.grammar import prompts
from benchmarks.planted.policy import save_policy
from benchmarks.planted.sampling import sampling_here
from benchmarks.planted.served import START_TIMEOUT_S, serving
from judge_service.client.sync import JudgeClient
from judge_service.planted.file import PREFIX
from rlaif.data.journal import Journal
from rlaif.data.records import atomic_open, write_jsonl
from rlaif.evaluation.intervals import Estimate, mean_estimate
from rlaif.evaluation.rounds.result import ROUNDS_FILE, RoundResult, RoundsSummary
from rlaif.pipeline import run as pipeline
from rlaif.pipeline.context import RunContext
from rlaif.pipeline.recipe import ModelSpec, Recipe

HERE = Path(__file__).parent
CONSTITUTION = HERE / "constitution.yaml"
FLIP, LENGTH_BIAS = 0.3, 0.2
SEEDS, ROUNDS = 8, 3
TRAIN_PROMPTS, HELDOUT_PROMPTS = 150, 100  # a round's, and those of every evaluation
METHODS, STARTS = ("dpo", "ppo"), ("base", "last")
_SECOND = 10_000  # added to the seed of the second judge


class RoundFigures(BaseModel, frozen=True):
    """One round, by gold and by who may be wrong about it."""

    gold: float
    gold_gain: float
    gap: float
    reward_wins: float
    gold_wins: float
    judge: float | None  # win rate against the start by the judge that labels
    second: float | None  # and by the other one
    kl: float
    tokens: float


class RoundsArm(BaseModel, frozen=True):
    """One method from one start with one seed: nothing here was measured with a real judge."""

    judge: str
    method: str
    start: str
    seed: int
    rounds: tuple[RoundFigures, ...]
    seconds: float  # of the run that ended it; one that was killed before is not counted
    cpu_seconds: float  # of all threads, in them

    @property
    def gain(self) -> float:
        """Gold of the last round less that of the first."""
        return self.rounds[-1].gold - self.rounds[0].gold


def write_judge(path: Path, seed: int) -> None:
    """The file of a planted judge whose pairs are flipped, and who favors length."""
    facts = yaml.safe_load((HERE / "judge.yaml").read_text(encoding="utf-8")) | {
        "seed": seed,
        "constitution": str(CONSTITUTION),
        "annotators": [1.0],
        "flip": FLIP,
        "length_bias": LENGTH_BIAS,
    }
    path.write_text(yaml.safe_dump(facts), encoding="utf-8")


def arm_recipe(out: Path, method: str, start: str, seed: int, rounds: int = ROUNDS) -> Recipe:
    """The recipe of an arm; its policy, prompts and judges are files in OUT."""
    trained: dict[str, Any] = {"model": "policy", "seed": seed, "batch_size": 16, "epochs": 3}
    reward = {**WHOLE, **trained, "kind": "reward", "labels": "labels",
              "learning_rate": RATES["reward"]}  # fmt: skip
    del reward["lora"]  # an adapter over the policy's own base, as PPO needs it
    dpo = {**WHOLE, **trained, "kind": "dpo", "labels": "labels", "learning_rate": RATES["dpo"]}
    ppo = {
        **WHOLE, "kind": "ppo", "model": "policy", "reward": "reward", "seed": seed,
        "advantages": "rloo", "iterations": 12, "prompts_per_iteration": 16, "group_size": 4,
        "epochs": 2, "update_batch_size": 32, "learning_rate": RATES["ppo"], **SHORT,
    }  # fmt: skip
    shared = out / f"seed-{seed}"
    judges = {name: f"{PREFIX}{shared / name}.yaml" for name in ("judge", "second")}
    sampling = {"n": 4, "seed": seed, "prompts_per_chunk": 200, "dtype": "float32", **SHORT}
    return Recipe.model_validate(
        {
            "name": f"{method}-{start}",
            "models": {"policy": str(out / "policy"), **judges},
            "constitution": str(CONSTITUTION),
            "prompts": str(shared / "prompts.jsonl"),
            "stages": {
                "samples": {"kind": "sample", "model": "policy", **sampling},
                "labels": {"kind": "label", "samples": "samples", "pairs_per_prompt": 2},
                "reward": reward,
                method: dpo if method == "dpo" else ppo,
            },
            "rounds": {
                "count": rounds, "policy": method, "reward": "reward", "start": start, "stop": None,
                "answers": {"n": 2},
            },
        }
    )  # fmt: skip


def prepare(out: Path, seed: int, rounds: int = ROUNDS) -> None:
    """The policy, and a seed's prompts and judges; what is there already is kept."""
    if not (out / "policy").is_dir():
        save_policy(out / "policy.partial")
        (out / "policy.partial").rename(out / "policy")
    shared = out / f"seed-{seed}"
    shared.mkdir(exist_ok=True)
    if not (shared / "prompts.jsonl").is_file():
        made = prompts(rounds * TRAIN_PROMPTS, HELDOUT_PROMPTS, seed)
        write_jsonl(shared / "prompts.jsonl", made)
    write_judge(shared / "judge.yaml", seed)
    write_judge(shared / "second.yaml", seed + _SECOND)


@contextmanager
def judging_here() -> Iterator[None]:
    """Until the block ends, planted judges of recipes are served by a thread of this process."""

    @contextmanager
    def judge_client(
        self: RunContext, judge: ModelSpec, constitution: str, log: Path
    ) -> Iterator[JudgeClient]:
        file = Path(judge.model.removeprefix(PREFIX))
        with serving(file, CONSTITUTION) as address, JudgeClient(address) as client:
            client.wait_until_ready(START_TIMEOUT_S)
            yield client

    with patch.object(RunContext, "judge_client", judge_client):
        yield


def measured(out: Path, method: str, start: str, seed: int) -> RoundsArm:
    """Run an arm to its end, and read what came out."""
    started, cpu_started = time.perf_counter(), time.process_time()
    prepare(out, seed)
    folder = out / f"seed-{seed}" / f"{method}-{start}"
    # The machine is not measured: nothing here depends on its speed.
    with patch.object(pipeline, "fit_to_machine", lambda recipe, *_: recipe):
        pipeline.run(arm_recipe(out, method, start, seed), folder, Console(file=StringIO()))
    found = RoundsSummary.load(folder / method / ROUNDS_FILE)
    return RoundsArm(
        judge=found.planted,
        method=method,
        start=start,
        seed=seed,
        rounds=tuple(map(figures, found.rounds)),
        seconds=time.perf_counter() - started,
        cpu_seconds=time.process_time() - cpu_started,
    )


def figures(found: RoundResult) -> RoundFigures:
    """The means of a round; everything is measured where the judges are planted."""
    wins = found.wins
    assert found.gold
    assert found.gold_gain
    assert found.kl
    assert wins.gap
    assert wins.reward
    assert wins.gold
    second, judge = (rate.value if rate else None for rate in found.against_start)
    return RoundFigures(
        gold=found.gold.value,
        gold_gain=found.gold_gain.value,
        gap=wins.gap.value,
        reward_wins=wins.reward.value,
        gold_wins=wins.gold.value,
        judge=judge,
        second=second,
        kl=found.kl.k1.value,
        tokens=found.mean_tokens,
    )


# ── the table ────────────────────────────────────────────────────────────────────────────────


def table(results: Sequence[RoundsArm]) -> str:
    """Every round of every arm, and the two comparisons, as Markdown with 95 % intervals."""
    lines = [
        f"Planted judges (simulated by rules, no model; flip {FLIP:g}, length bias "
        f"{LENGTH_BIAS:g}): mean over seeds [95 %].",
        "",
        "| method | start | round | gold gain | reward wins less gold wins | judge | second | KL "
        "| tokens |",
        "|---" * 9 + "|",
    ]
    arms = list(dict.fromkeys((each.method, each.start) for each in results))
    for method, start in arms:
        own = [each for each in results if (each.method, each.start) == (method, start)]
        for place in range(min(len(each.rounds) for each in own)):
            rounds = [each.rounds[place] for each in own]
            columns = (_mean(rounds, name) for name in ("gold_gain", "gap", "judge", "second",
                                                        "kl", "tokens"))  # fmt: skip
            lines.append(f"| {method} | {start} | {place + 1} | {' | '.join(columns)} |")
    lines.append("")
    for method, start in arms:
        own = [each for each in results if (each.method, each.start) == (method, start)]
        last = min(len(each.rounds) for each in own)
        lines.append(
            f"{method}, start: {start}: gold of round {last} less round 1 "
            f"{_text(mean_estimate([each.gain for each in own]))}, {len(own)} seeds"
        )
    lines += _gaps(results)
    return "\n".join(lines)


def _gaps(results: Sequence[RoundsArm]) -> Iterator[str]:
    """Gap and gold of the last round from the last policy less those from the base, by seed."""
    for method in dict.fromkeys(each.method for each in results):
        by = {(each.start, each.seed): each.rounds[-1] for each in results
              if each.method == method}  # fmt: skip
        seeds = [seed for start, seed in by if start == "base" and ("last", seed) in by]
        if not seeds:
            continue
        gaps, golds = (
            mean_estimate(
                [getattr(by["last", s], name) - getattr(by["base", s], name) for s in seeds]
            )
            for name in ("gap", "gold")
        )
        yield (
            f"{method}, last less base in the last round: gap {_text(gaps)}, gold {_text(golds)}, "
            f"{len(seeds)} seeds"
        )


def _mean(rounds: Sequence[RoundFigures], name: str) -> str:
    values = [value for each in rounds if (value := getattr(each, name)) is not None]
    return _text(mean_estimate(values)) if values else "—"


def _text(found: Estimate) -> str:
    if found.low is None or found.high is None:
        return f"{found.value:+.3f}"
    return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def run(
    out: Path, results: Path, methods: Sequence[str], starts: Sequence[str], seeds: Sequence[int]
) -> list[RoundsArm]:
    """Every arm that is asked for; those in the file of results are read, not run."""
    # Seed by seed, so that what a killed run leaves has as many seeds of each arm, or one less.
    wanted = [(m, start, seed) for seed in seeds for m in methods for start in starts]
    with Journal(results, RoundsArm) as journal:
        found = {(r.method, r.start, r.seed): r for _, r in journal.scan()}
        for method, start, seed in wanted:
            if (method, start, seed) in found:
                continue
            found[method, start, seed] = result = measured(out, method, start, seed)
            journal.append(result)
            known = [found[key] for key in wanted if key in found]
            with atomic_open(results.with_suffix(".md")) as file:
                file.write(f"{len(known)} of {len(wanted)} arms.\n\n{table(known)}\n")
            shutil.rmtree(out / f"seed-{seed}" / f"{method}-{start}")  # 5 MB a model
            gold = ", ".join(f"{each.gold_gain:+.3f}" for each in result.rounds)
            print(f"{method} from {start}, seed {seed}: gold gain {gold}; {result.seconds:.0f} s, "
                  f"{result.cpu_seconds:.0f} of CPU", file=sys.stderr)  # fmt: skip
    return [found[key] for key in wanted]


def seeds_of(text: str) -> range:
    """The seeds of "8" (0 to 7) or "4..7" (4 to 7). Raises ValueError for any other text."""
    first, dots, last = text.rpartition("..")
    found = range(int(first), int(last) + 1) if dots else range(int(text))
    if not found:
        raise ValueError(f"no seed in {text!r}; write 8 for 0 to 7, or 4..7")
    return found


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("out", type=Path)
    parser.add_argument("--results", type=Path, help="a JSONL file; OUT/rounds.jsonl by default")
    parser.add_argument("--methods", default=",".join(METHODS), help="separated by commas")
    parser.add_argument("--starts", default=",".join(STARTS))
    parser.add_argument("--seeds", type=seeds_of, default=range(SEEDS), metavar="8 or 4..7")
    given = parser.parse_args()
    methods, starts = given.methods.split(","), given.starts.split(",")
    for name, chosen, known in (("method", methods, METHODS), ("start", starts, STARTS)):
        if unknown := [each for each in chosen if each not in known]:
            parser.error(f"unknown {name}: {unknown[0]}; expected some of {', '.join(known)}")
    given.out.mkdir(parents=True, exist_ok=True)
    results = given.results or given.out / "rounds.jsonl"
    with sampling_here(), judging_here():
        print(table(run(given.out, results, methods, starts, given.seeds)))


if __name__ == "__main__":
    main()
