"""How much the gate raises the share of truly better lessons, where the truth is planted.

    python -m benchmarks.planted.gate OUT                 # 10 seeds of 200 prompts
    python -m benchmarks.planted.gate OUT --seeds 2 --skill 0.8 --gate 0.7

A draft answers a prompt of the planted grammar. It is criticized and revised in `rounds` rounds by
a planted judge with a skill: a simulated writer that edits by rule, for the better or for the worse
(judge_service/planted/writer.py). The same judge, which errs as judge.yaml says, is the gate. So
the revisions of both columns are the same texts, written and compared through the real server by
`rlaif.feedback.revisions`:

    without    share of clean revisions that are truly better than their draft, by gold
    gate       the same share of those that the gate lets through

Equal gold is not better. The gain is paired by seed; Student's t interval over seeds.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import yaml
from pydantic import BaseModel

from benchmarks.planted.grammar import prompts, response_text
from benchmarks.planted.served import START_TIMEOUT_S, serving
from judge_service.client.sync import JudgeClient
from judge_service.planted.file import PlantedJudge
from rlaif.data.journal import Journal
from rlaif.data.records import Demonstration, Sample, read_jsonl
from rlaif.evaluation.intervals import mean_estimate
from rlaif.feedback.revisions.gate import DEFAULT_GATE, sample_id
from rlaif.feedback.revisions.lessons import LESSONS, RevisionMethod, revise

HERE = Path(__file__).parent
CONSTITUTION = HERE / "constitution.yaml"


class GateResult(BaseModel, frozen=True):
    """One seed, by gold."""

    judge: str
    seed: int
    skill: float
    gate: float
    rounds: int
    revisions: int
    lessons: int
    better_without: float
    better_with: float

    @property
    def gain(self) -> float:
        """What the gate adds to the share of truly better lessons."""
        return self.better_with - self.better_without


def drafts(count: int, seed: int) -> list[Sample]:
    """One response of the grammar to each of so many prompts."""
    drawn = random.Random(seed)
    return [
        Sample(
            prompt=prompt,
            index=0,
            response=(text := response_text(drawn, prompt.kind == "harmful")),
            tokens=len(text.split()),
            complete=True,
            seed=seed,
        )
        for prompt in prompts(count, 1, seed)[:count]
    ]


def write_judge(path: Path, skill: float, seed: int) -> None:
    """The file of a planted judge that errs as judge.yaml says, and writes with this skill."""
    facts = yaml.safe_load((HERE / "judge.yaml").read_text(encoding="utf-8")) | {
        "seed": seed,
        "constitution": str(CONSTITUTION),
        "skill": skill,
    }
    path.write_text(yaml.safe_dump(facts), encoding="utf-8")


def measured(out: Path, given: argparse.Namespace, seed: int) -> GateResult:
    """The lessons of one seed, with and without the gate."""
    folder = out / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    judge_file = folder / "judge.yaml"
    write_judge(judge_file, given.skill, seed)
    judge = PlantedJudge.load(judge_file)
    samples = drafts(given.prompts, seed)
    shares = {}
    with serving(judge_file, CONSTITUTION) as address, JudgeClient(address) as client:
        client.wait_until_ready(START_TIMEOUT_S)
        for name, gate in (("with", given.gate), ("without", None)):
            method = RevisionMethod(gate=gate, rounds=given.rounds, seed=seed, pilot=None)
            revise(samples, client, folder / "revisions", method)  # written once, for both
            lessons = read_jsonl(folder / "revisions" / LESSONS, Demonstration)
            shares[name] = better(samples, lessons, judge), len(lessons)
    return GateResult(
        judge=judge.name,
        seed=seed,
        skill=given.skill,
        gate=given.gate,
        rounds=given.rounds,
        revisions=shares["without"][1],
        lessons=shares["with"][1],
        better_without=shares["without"][0],
        better_with=shares["with"][0],
    )


def better(
    samples: Sequence[Sample], lessons: Sequence[Demonstration], judge: PlantedJudge
) -> float:
    """Share of lessons whose gold is above that of the response they replace."""
    originals = {sample_id(sample): sample for sample in samples}
    return fmean(
        judge.gold.prefers_a(lesson.prompt, lesson.response, originals[lesson.id].response) == 1
        for lesson in lessons
    )


def run(out: Path, given: argparse.Namespace) -> list[GateResult]:
    """Every seed that is asked for; those in OUT/gate.jsonl with these settings are not run."""
    out.mkdir(parents=True, exist_ok=True)
    asked = {name: getattr(given, name) for name in ("skill", "gate", "rounds")}
    with Journal(out / "gate.jsonl", GateResult) as journal:
        known = {r.seed: r for _, r in journal.scan() if r.model_dump(include=set(asked)) == asked}
        for seed in range(given.seeds):
            if seed not in known:
                known[seed] = measured(out, given, seed)
                journal.append(known[seed])
            print(_line(known[seed]), file=sys.stderr)
    return [known[seed] for seed in range(given.seeds)]


def _line(result: GateResult) -> str:
    return (
        f"seed {result.seed}: {result.lessons} of {result.revisions} revisions pass, truly better "
        f"{result.better_without:.1%} → {result.better_with:.1%}"
    )


def summary(results: Sequence[GateResult]) -> str:
    """Both shares and the gain, with 95 % intervals over seeds."""
    columns = {
        "truly better without a gate": [r.better_without for r in results],
        "truly better with it": [r.better_with for r in results],
        "gain": [r.gain for r in results],
        "lessons per revision": [r.lessons / r.revisions for r in results],
    }
    lines = [f"Planted judge (simulated by rules, no model), {len(results)} seeds [95 %]:"]
    for name, values in columns.items():
        found = mean_estimate(values)
        interval = "" if found.low is None else f" [{found.low:.3f}, {found.high:.3f}]"
        lines.append(f"  {name}: {found.value:.3f}{interval}")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, and print both shares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=10, help="0 to this, exclusive")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--skill", type=float, default=0.6, help="share of edits for the better")
    parser.add_argument("--gate", type=float, default=DEFAULT_GATE)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    print(summary(run(given.out, given)))


if __name__ == "__main__":
    main()
