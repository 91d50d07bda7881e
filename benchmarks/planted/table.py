"""Methods at known label accuracies, on a planted judge: which one gains how much true quality.

    python -m benchmarks.planted.table OUT                                   # everything
    python -m benchmarks.planted.table OUT --arms sft,dpo_soft --accuracies .6,1 --seeds 2

Every training's result is a line of RESULTS, and one that is there is not run again: kill it and
start it again. The gain is the mean gold score of a policy's responses to held-out prompts
less the start's (0 to 1 is the whole range), with Student's t interval over seeds.

Labels come from a planted judge (judge_service/planted/), through server, client and labeling as
ever. At accuracy a, half of the pairs go to an annotator of reliability a - d, half to one of a + d
(d is at most 0.18): soft labels then know which labels are the surer ones. `--length-bias` adds
log-odds per unit of the log length ratio, and the second table shows how long responses became.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import yaml
from pydantic import BaseModel

import rlaif
from benchmarks.planted.arms import ARMS, HELDOUT_SAMPLES, SHORT, Cell
from benchmarks.planted.grammar import prompts
from benchmarks.planted.policy import save_policy
from benchmarks.planted.sampling import sampling_here
from benchmarks.planted.served import serving
from judge_service.planted.file import PlantedJudge
from rlaif.data.journal import Journal
from rlaif.data.records import Sample, read_jsonl, write_jsonl
from rlaif.evaluation.gold import gold_labels, gold_policy, reward_accuracy
from rlaif.evaluation.intervals import Estimate, mean_estimate
from rlaif.models.reward_model import RewardModel

HERE = Path(__file__).parent
CONSTITUTION = HERE / "constitution.yaml"
ACCURACIES = (0.6, 0.7, 0.8, 0.9, 1.0)
SEEDS = 8
TRAIN_PROMPTS, HELDOUT_PROMPTS, SAMPLES = 200, 100, 4
MOST_SPREAD, SUREST, LEAST_SURE = 0.18, 0.98, 0.52


class CellResult(BaseModel, frozen=True):
    """One training, by gold: nothing here was measured with a real judge."""

    judge: str
    arm: str
    accuracy: float  # as set
    length_bias: float
    seed: int
    label_accuracy: float | None  # as found by gold
    reward_accuracy: float | None  # on the training pairs; None for arms without a reward model
    gold: float
    gain: float
    length_ratio: float  # mean characters of its responses over the start's
    seconds: float  # of training and sampling, a reward model that it had to train included
    cpu_seconds: float | None = None  # of all threads, in them


def annotators(accuracy: float) -> list[float]:
    """Two reliabilities around the accuracy, as far apart as they can be.

    >>> annotators(0.8), annotators(1.0)
    ([0.62, 0.98], [1.0])
    """
    spread = min(MOST_SPREAD, SUREST - accuracy, accuracy - LEAST_SURE)
    if spread <= 0:
        return [accuracy]
    return [round(accuracy - spread, 4), round(accuracy + spread, 4)]


def write_judge(path: Path, accuracy: float, length_bias: float, seed: int) -> None:
    """The file of a planted judge whose labels are right with this probability."""
    facts = yaml.safe_load((HERE / "judge.yaml").read_text(encoding="utf-8")) | {
        "seed": seed,
        "constitution": str(CONSTITUTION),
        "annotators": annotators(accuracy),
        "length_bias": length_bias,
    }
    path.write_text(yaml.safe_dump(facts), encoding="utf-8")


def prepared(out: Path, accuracy: float, length_bias: float, seed: int) -> Cell:
    """A cell with samples and labels; what is there already is kept."""
    policy, shared = out / "policy", out / f"seed-{seed}"
    if not (policy / "tokenizer.json").is_file():
        save_policy(policy)
    shared.mkdir(exist_ok=True)
    if not (shared / "prompts.jsonl").is_file():
        write_jsonl(shared / "prompts.jsonl", prompts(TRAIN_PROMPTS, HELDOUT_PROMPTS, seed))
    for split, n in (("train", SAMPLES), ("heldout", HELDOUT_SAMPLES)):
        if (shared / f"{split}.jsonl").is_file():
            continue
        rlaif.sample(
            shared / "prompts.jsonl", model=policy, split=split, out=shared / f"{split}.jsonl",
            n=n, seed=seed, prompts_per_chunk=200, **SHORT,
        )  # fmt: skip
    folder = shared / f"accuracy-{accuracy:.2f}-length-{length_bias:g}"
    folder.mkdir(exist_ok=True)
    judge = folder / "judge.yaml"
    write_judge(judge, accuracy, length_bias, seed)
    if not (folder / "labels" / "preferences.parquet").is_file():
        with serving(judge, CONSTITUTION) as address:
            rlaif.label(
                shared / "train.jsonl", server=address, out=folder / "labels", pairs_per_prompt=2
            )
    return Cell(folder, policy, shared / "prompts.jsonl", CONSTITUTION, seed)


def measured(cell: Cell, arm: str, accuracy: float, length_bias: float) -> CellResult:
    """Train one arm, and compare its responses with the start's by gold."""
    judge = PlantedJudge.load(cell.folder / "judge.yaml")
    gold = judge.gold.score
    started = time.perf_counter()
    cpu_started = time.process_time()
    responses = ARMS[arm](cell, arm)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu_started
    start = read_jsonl(cell.folder.parent / "heldout.jsonl", Sample)
    found = gold_policy(arm, responses, start, gold)
    assert found.gain is not None
    labels = gold_labels(judge.name, cell.labels, gold).accuracy
    return CellResult(
        judge=judge.name,
        arm=arm,
        accuracy=accuracy,
        length_bias=length_bias,
        seed=cell.seed,
        label_accuracy=labels.value if labels else None,
        reward_accuracy=_reward_accuracy(cell, judge),
        gold=found.gold.value,
        gain=found.gain.value,
        length_ratio=_length(responses) / _length(start),
        seconds=seconds,
        cpu_seconds=cpu,
    )


def _reward_accuracy(cell: Cell, judge: PlantedJudge) -> float | None:
    """Of the cell's reward model, where an arm has trained one."""
    folder, labels = cell.folder / "reward", cell.labels
    if not folder.is_dir():
        return None
    model = RewardModel.load(str(cell.start), folder)
    conversations = [label.prompt for label in labels]
    chosen = model.overall_scores(conversations, [label.chosen_text for label in labels])
    rejected = model.overall_scores(conversations, [label.rejected_text for label in labels])
    both = [
        (label, a - b)
        for label, a, b in zip(labels, chosen, rejected, strict=True)
        if a is not None and b is not None
    ]
    found = reward_accuracy([each for each, _ in both], [m for _, m in both], judge.gold.score)
    return found.value if found else None


def _length(samples: Sequence[Sample]) -> float:
    return fmean(len(sample.response) for sample in samples)


# ── the table ────────────────────────────────────────────────────────────────────────────────


def table(results: Sequence[CellResult]) -> str:
    """Gain and length by arm and label accuracy as Markdown, with 95 % intervals over seeds."""
    accuracies = sorted({result.accuracy for result in results})
    lines = []
    for title, value in (("gain in gold", "gain"), ("length over the start's", "length_ratio")):
        lines += [
            f"Planted judge (simulated by rules, no model): {title}, mean over seeds [95 %].",
            "",
            "| | " + " | ".join(f"labels right {a:.0%}" for a in accuracies) + " |",
            "|---" * (len(accuracies) + 1) + "|",
        ]
        for arm in ARMS:
            own = [result for result in results if result.arm == arm]
            if own:
                cells = (
                    _cell([getattr(r, value) for r in own if r.accuracy == accuracy])
                    for accuracy in accuracies
                )
                lines.append(f"| {arm} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "—"
    return _text(mean_estimate(values)) + f" n={len(values)}"


def _text(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:+.3f}"
    return f"{estimate.value:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]"


def run(
    out: Path,
    results: Path,
    arms: Sequence[str],
    accuracies: Sequence[float],
    seeds: int,
    length_bias: float,
) -> list[CellResult]:
    """Every cell that is asked for; those in the file of results are read, not run."""
    wanted = [(arm, a, length_bias, s) for s in range(seeds) for a in accuracies for arm in arms]
    with Journal(results, CellResult) as journal:
        found = {_key(result): result for _, result in journal.scan()}
        for key in wanted:
            if key in found:
                continue
            arm, accuracy, _, seed = key
            cell = prepared(out, accuracy, length_bias, seed)
            found[key] = result = measured(cell, arm, accuracy, length_bias)
            journal.append(result)
            shutil.rmtree(cell.folder / arm, ignore_errors=True)  # 5 MB a policy
            print(f"{arm} at {accuracy:.0%}, seed {seed}: {result.gain:+.3f}, "
                  f"{result.seconds:.0f} s", file=sys.stderr)  # fmt: skip
    return [found[key] for key in wanted]


def _key(result: CellResult) -> tuple[str, float, float, int]:
    return result.arm, result.accuracy, result.length_bias, result.seed


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("out", type=Path)
    parser.add_argument("--results", type=Path, help="a JSONL file; OUT/results.jsonl by default")
    parser.add_argument("--arms", default=",".join(ARMS), help="separated by commas")
    parser.add_argument("--accuracies", default=",".join(map(str, ACCURACIES)))
    parser.add_argument("--seeds", type=int, default=SEEDS, help="0 to this, exclusive")
    parser.add_argument("--length-bias", type=float, default=0.0)
    given = parser.parse_args()
    arms = given.arms.split(",")
    if unknown := [arm for arm in arms if arm not in ARMS]:
        parser.error(f"unknown arm: {unknown[0]}; expected some of {', '.join(ARMS)}")
    accuracies = [float(each) for each in given.accuracies.split(",")]
    given.out.mkdir(parents=True, exist_ok=True)
    results = given.results or given.out / "results.jsonl"
    with sampling_here():
        found = run(given.out, results, arms, accuracies, given.seeds, given.length_bias)
    print(table(found))


if __name__ == "__main__":
    main()
