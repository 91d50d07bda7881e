"""From gold pairs to a stored calibration: folds, selection, report, and the command."""

from __future__ import annotations

import asyncio
import json
import math
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from constitution.schema import Constitution
from judge_service.judge.calibration import (
    CalibrationError,
    Calibrations,
    Isotonic,
    Temperature,
    model_sha256,
    read_calibrations,
)
from judge_service.judge.calibration_metrics import measure, nll
from judge_service.types import Judgment, Unjudged, UnjudgedReason
from rlaif.cli.main import app
from rlaif.data.records import RecordError
from rlaif.labels.calibrate import (
    GoldPair,
    calibrate,
    changes,
    choose,
    comparison,
    held_back,
    load_gold,
    longer_is_right,
)
from rlaif.labels.calibration_report import print_report
from tests.support.fakes import FakeEngine
from tests.support.feedback.scripted_judge import MODEL, ScriptedJudge
from tests.support.service.serving import one_principle, serving

LONG, SHORT = "a longer answer with a next step", "short"


def gold(number: int, chosen: str = LONG, rejected: str = SHORT, prompt: str = "") -> GoldPair:
    return GoldPair(
        id=f"g{number}", prompt=prompt or f"question {number}", chosen=chosen, rejected=rejected
    )


def three_in_four(n: int = 40) -> list[GoldPair]:
    """The longer response is the better one in three pairs of four."""
    return [gold(i) if i % 4 else gold(i, SHORT, LONG) for i in range(n)]


def write_gold(path: Path, pairs: list[GoldPair]) -> Path:
    lines = (
        {"id": p.id, "source": "test", "prompt": p.prompt[0].content, "chosen": p.chosen,
         "rejected": p.rejected, "category": "other"}
        for p in pairs
    )  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


# ── gold pairs ───────────────────────────────────────────────────────────────────────────────


def test_gold_pairs_are_read_as_text_and_as_messages(tmp_path: Path) -> None:
    talk = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "A fruit?"},
    ]
    lines = [
        {"id": "x", "source": "s", "prompt": "A fruit?", "chosen": "Pear", "rejected": "Stone"},
        {"prompt": talk, "chosen": [{"role": "assistant", "content": "Pear"}], "rejected": "No"},
    ]
    path = tmp_path / "gold.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    first, second = load_gold(path)
    assert (first.id, first.prompt[0].role, first.prompt[0].content) == ("x", "user", "A fruit?")
    assert (len(second.prompt), second.chosen) == (3, "Pear")
    assert len(second.id) == 16
    assert load_gold(path)[1].id == second.id


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "p", "chosen": "a"}', "GoldPair.rejected: missing field"),
        ('{"prompt": "p", "chosen": "a", "rejected": " a "}', "chosen and rejected are identical"),
        ('{"prompt": [], "chosen": "a", "rejected": "b"}', "GoldPair.prompt"),
        ("{", "gold.jsonl:1"),
        ("", "contains no pairs"),
    ],
)
def test_an_invalid_gold_file_is_an_error_naming_the_line(
    tmp_path: Path, line: str, message: str
) -> None:
    path = tmp_path / "gold.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(RecordError) as error:
        load_gold(path)
    assert message in str(error.value)


def test_a_limit_draws_a_sample_and_a_larger_one_includes_a_smaller(tmp_path: Path) -> None:
    path = write_gold(tmp_path / "gold.jsonl", three_in_four(60))
    ten, forty = load_gold(path, 10), load_gold(path, 40)
    assert (len(ten), len(forty)) == (10, 40)
    assert all(pair in forty for pair in ten)
    assert ten != load_gold(path, 10, seed=1)
    assert ten != load_gold(path)[:10]
    assert load_gold(path, 99) == load_gold(path)


def test_the_position_of_a_response_does_not_depend_on_being_chosen() -> None:
    pairs = [gold(i, f"one {i}", f"other {i}") for i in range(200)]
    a_is_chosen = [comparison(pair).response_a == pair.chosen for pair in pairs]
    assert 70 < sum(a_is_chosen) < 130
    turned = [gold(i, f"other {i}", f"one {i}") for i in range(200)]
    assert [comparison(p) for p in turned] == [comparison(p) for p in pairs]


def test_the_baseline_picks_the_longer_and_counts_a_tie_half() -> None:
    pairs = [gold(0, "abc", "a"), gold(1, "a", "abc"), gold(2, "abc", "b"), gold(3, "ab", "cd")]
    assert longer_is_right(pairs) == pytest.approx(2.5 / 4)


# ── cross-validation ─────────────────────────────────────────────────────────────────────────


def test_a_pair_is_calibrated_by_the_other_folds_only() -> None:
    seen = []

    def fit(probs):
        seen.append(list(probs))
        return Temperature(2.0)

    assert held_back([0.9, 0.8, 0.7], [0, 1, 0], fit) == [
        Temperature(2.0).apply(q) for q in (0.9, 0.8, 0.7)
    ]
    assert sorted(seen) == [[0.8], [0.9, 0.7]]


def drawn(n: int, curve, seed: int = 0) -> tuple[list[float], list[str]]:
    """q of n pairs whose outcome follows `curve` of the judge's p, and their prompts, two each."""
    draw = random.Random(seed)
    probs = []
    for _ in range(n):
        p = draw.random()
        probs.append(p if draw.random() < curve(p) else 1.0 - p)
    return probs, [str(i // 2) for i in range(n)]


def test_an_overconfident_judge_gets_a_temperature_and_improves() -> None:
    probs, prompts = drawn(600, Temperature(4.0).apply, seed=2)
    found = choose(probs, prompts, 5, seed=0)
    assert found.method == "temperature"
    assert isinstance(found.curve, Temperature)
    assert found.curve.temperature == pytest.approx(4.0, rel=0.5)
    assert set(found.held_back_nll) == {"none", "temperature", "isotonic"}
    assert found.after.ece < found.before.ece
    assert found.after.accuracy == found.before.accuracy
    assert found.nll_change.low < found.nll_change.value < found.nll_change.high < 0
    assert found.ece_change.high < 0
    assert found.nll_change.value == pytest.approx(found.after.nll - found.before.nll)
    assert found.ece_change.value == pytest.approx(found.after.ece - found.before.ece)
    assert found.nll_change.n == 300


def test_a_step_curve_selects_isotonic_given_enough_pairs() -> None:
    def step(p: float) -> float:
        return 0.5 if 0.15 < p < 0.85 else 0.95 if p >= 0.85 else 0.05

    found = choose(*drawn(800, step), 5, seed=0)
    assert found.method == "isotonic"
    assert isinstance(found.curve, Isotonic)
    assert "isotonic" not in choose(*drawn(199, step), 5, seed=0).held_back_nll


def test_a_calibrated_judge_is_left_unchanged() -> None:
    methods = {seed: choose(*drawn(199, lambda p: p, seed), 5, 0) for seed in range(3)}
    untouched = [found for found in methods.values() if found.method == "none"]
    assert untouched
    assert all(found.curve == Temperature(1.0) for found in untouched)
    assert all(found.before == found.after for found in untouched)


def test_the_interval_counts_prompts_not_pairs() -> None:
    before = [0.9, 0.2, 0.7, 0.4] * 10
    after = [0.8, 0.3, 0.6, 0.45] * 10
    _, few = changes(before, after, [str(i % 4) for i in range(40)], seed=0)
    _, many = changes(before, after, [str(i) for i in range(40)], seed=0)
    assert (few.n, many.n) == (4, 40)
    assert few.high - few.low > many.high - many.low
    assert few.value == pytest.approx(nll(after) - nll(before))


@pytest.mark.parametrize("folds", [1, 4])
def test_an_invalid_number_of_folds_is_an_error(folds: int) -> None:
    with pytest.raises(CalibrationError, match=r"set --folds to 2 up to .* prompts, 3, or add"):
        choose([0.9] * 40, ["a", "b", "c", "a"] * 10, folds, seed=0)


# ── judging ──────────────────────────────────────────────────────────────────────────────────


def test_a_judge_right_in_three_of_four_pairs_at_odds_nine_gets_temperature_two(
    tmp_path: Path,
) -> None:
    judge = ScriptedJudge()
    report = calibrate(three_in_four(), judge, tmp_path / "j.jsonl")
    assert (report.pairs, report.judged, report.prompts, report.folds) == (40, 40, 40, 5)
    assert report.choice.method == "temperature"
    assert report.choice.before == measure([0.9] * 30 + [1 - 0.9] * 10)
    assert report.choice.before.ece == pytest.approx(0.15)
    assert report.pick_longer == 0.75
    assert report.calibration.curve.apply(0.9) == pytest.approx(0.75)
    assert report.calibration.constitution_sha256 == judge.sha256
    assert report.calibration.model_sha256 == model_sha256(MODEL)
    assert report.calibration.pairs == 40

    again = calibrate(three_in_four(), judge, tmp_path / "j.jsonl")
    assert again == report
    assert len(judge.received) == 40, "the journal had them all"


def test_after_a_kill_only_the_rest_is_judged(tmp_path: Path) -> None:
    judge = ScriptedJudge()
    judge.stop_after, judge.stop_with = 25, KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        calibrate(three_in_four(), judge, tmp_path / "j.jsonl")
    judge.stop_with = None
    assert calibrate(three_in_four(), judge, tmp_path / "j.jsonl").judged == 40
    assert len(judge.received) == len(set(judge.received)) == 40


class AbstainingJudge(ScriptedJudge):
    """Gives no label to pairs whose id ends in a 7."""

    def judge(self, comparison) -> Judgment | Unjudged:
        if comparison.id.endswith("7"):
            return Unjudged(UnjudgedReason.LOW_LABEL_MASS, "would not say")
        return super().judge(comparison)


def test_an_unjudged_pair_is_counted_and_has_no_probability(tmp_path: Path) -> None:
    report = calibrate(three_in_four(), AbstainingJudge(), tmp_path / "j.jsonl")
    assert (report.judged, report.unjudged_by_reason) == (36, {"low_label_mass": 4})
    assert report.calibration.pairs == 36
    out = Console(width=100)
    with out.capture() as printed:
        print_report(report, out)
    assert "4 pairs without a judgment: low_label_mass 4" in printed.get()
    assert "temperature, T = " in printed.get()
    assert "Isotonic curves are tried from 200 judged pairs on" in printed.get()
    assert "accuracy of always picking the longer response: " in printed.get()


def test_too_few_judged_pairs_are_an_error_with_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"only 29 of 32 .*low_label_mass 3.*fewer than 30"):
        calibrate(three_in_four(32), AbstainingJudge(), tmp_path / "j.jsonl")
    judge = ScriptedJudge()
    with pytest.raises(CalibrationError, match="too few gold pairs: 29"):
        calibrate(three_in_four(29), judge, tmp_path / "k.jsonl")
    assert judge.received == []


def test_answers_of_different_protocols_are_an_error(tmp_path: Path) -> None:
    class Changing(ScriptedJudge):
        def judge(self, comparison) -> Judgment | Unjudged:
            found = super().judge(comparison)
            protocol = "pointwise" if comparison.id == "g7" else "pairwise"
            return replace(found, provenance=replace(found.provenance, protocol=protocol))

    with pytest.raises(CalibrationError, match="pairwise, pointwise"):
        calibrate(three_in_four(), Changing(), tmp_path / "j.jsonl")


# ── through a server, by the command ─────────────────────────────────────────────────────────


@contextmanager
def server(constitution: str) -> Iterator[str]:
    """The address of a judge server in its own thread; its engine prefers the longer reply."""
    ready, stop = threading.Event(), threading.Event()
    address = []

    async def live() -> None:
        async with serving(FakeEngine(), constitutions=(constitution,)) as running:
            address.append(running.address)
            ready.set()
            while not stop.is_set():
                await asyncio.sleep(0.01)

    thread = threading.Thread(target=lambda: asyncio.run(live()))
    thread.start()
    try:
        assert ready.wait(120)
        yield address[0]
    finally:
        stop.set()
        thread.join(120)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RLAIF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_command_stores_the_calibration_where_that_server_looks_for_it(
    tmp_path: Path, cache: Path
) -> None:
    constitution = one_principle(tmp_path)
    pairs = write_gold(tmp_path / "gold.jsonl", three_in_four())
    with server(constitution) as address:
        command = ["judge", "calibrate", "--gold", str(pairs), "-c", constitution]
        command += ["--server", address]
        shown = CliRunner().invoke(app, command)
        assert shown.exit_code == 0, shown.output
        as_json = CliRunner().invoke(app, [*command, "--json"])
    stored = tmp_path / "brief.calibration.json"
    assert "brief.calibration.json" in shown.output
    assert "selected: temperature" in shown.output
    found = json.loads(as_json.stdout)
    assert found["file"] == str(stored)
    assert found["choice"]["method"] == "temperature"
    (entry,) = read_calibrations(stored)
    assert found["sha256"] == entry.sha256
    digest = Constitution.load(constitution).digest
    known = Calibrations.load([stored]).find(
        digest, FakeEngine().identity, entry.template_version, entry.protocol
    )
    assert known == entry
    # prefer_longer: logit ln(0.9 / 0.09) = ln 10 in both orders, so T = ln 10 / ln 3
    assert isinstance(entry.curve, Temperature)
    assert entry.curve.temperature == pytest.approx(math.log(10) / math.log(3), rel=1e-3)
    assert list((cache / "calibrations").iterdir()) == [
        cache / "calibrations" / "brief.journal.jsonl"
    ]


def test_a_dry_run_shows_the_cost_and_the_file_without_a_judge(tmp_path: Path, cache: Path) -> None:
    pairs = write_gold(tmp_path / "gold.jsonl", three_in_four())
    constitution = one_principle(tmp_path)
    command = ["judge", "calibrate", "--gold", str(pairs), "-c", constitution, "--dry-run"]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    assert "would judge 40 pairs with about 80 reads" in shown.output
    assert not (tmp_path / "brief.calibration.json").exists()
    by_name = CliRunner().invoke(app, ["judge", "calibrate", "--gold", str(pairs), "--dry-run"])
    assert "overall.calibration.json" in by_name.output.replace("\n", "")
    assert not cache.exists()


def test_a_broken_calibration_file_is_an_error_before_judging(tmp_path: Path) -> None:
    pairs = write_gold(tmp_path / "gold.jsonl", three_in_four())
    constitution = one_principle(tmp_path)
    (tmp_path / "brief.calibration.json").write_text("{")
    command = ["judge", "calibrate", "--gold", str(pairs), "-c", constitution]
    shown = CliRunner().invoke(app, [*command, "--server", "127.0.0.1:1"])
    assert isinstance(shown.exception, CalibrationError)
    assert "not a list of calibrations" in str(shown.exception)
