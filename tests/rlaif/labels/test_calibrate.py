"""From gold pairs to a stored calibration: folds, choice, report, and the command."""

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
from hypothesis import given
from hypothesis import strategies as st
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
from rlaif.labels import calibrate as calibrating
from rlaif.labels.calibrate import (
    GoldPair,
    calibrate,
    changes,
    choose,
    comparison,
    folds_by_prompt,
    held_back,
    load_gold,
    longer_is_right,
)
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


def test_gold_is_read_in_every_shape_people_have_it_in(tmp_path: Path) -> None:
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
    ("line", "said"),
    [
        ('{"prompt": "p", "chosen": "a"}', "GoldPair.rejected: Field required"),
        ('{"prompt": "p", "chosen": "a", "rejected": " a "}', "are the same text"),
        ('{"prompt": [], "chosen": "a", "rejected": "b"}', "GoldPair.prompt"),
        ("{", "gold.jsonl:1"),
        ("", "no pairs in it"),
    ],
)
def test_a_broken_gold_file_is_told_with_its_line(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "gold.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(RecordError) as told:
        load_gold(path)
    assert said in str(told.value)


def test_a_limit_draws_and_a_larger_one_holds_the_smaller(tmp_path: Path) -> None:
    path = write_gold(tmp_path / "gold.jsonl", three_in_four(60))
    ten, forty = load_gold(path, 10), load_gold(path, 40)
    assert (len(ten), len(forty)) == (10, 40)
    assert all(pair in forty for pair in ten)
    assert ten != load_gold(path, 10, seed=1)
    assert ten != load_gold(path)[:10]
    assert load_gold(path, 99) == load_gold(path)


def test_the_place_of_a_response_says_nothing_of_its_being_chosen() -> None:
    pairs = [gold(i, f"one {i}", f"other {i}") for i in range(200)]
    a_is_chosen = [comparison(pair).response_a == pair.chosen for pair in pairs]
    assert 70 < sum(a_is_chosen) < 130
    turned = [gold(i, f"other {i}", f"one {i}") for i in range(200)]
    assert [comparison(p) for p in turned] == [comparison(p) for p in pairs]


def test_the_floor_picks_the_longer_and_halves_a_tie() -> None:
    pairs = [gold(0, "abc", "a"), gold(1, "a", "abc"), gold(2, "abc", "b"), gold(3, "ab", "cd")]
    assert longer_is_right(pairs) == pytest.approx(2.5 / 4)


# ── cross-validation ─────────────────────────────────────────────────────────────────────────


@given(st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=60), st.integers(2, 6))
def test_no_prompt_is_in_two_folds(prompts: list[str], folds: int) -> None:
    fold_of = folds_by_prompt(prompts, folds, seed=3)
    assert len(set(zip(prompts, fold_of, strict=True))) == len(set(prompts))
    assert set(fold_of) <= set(range(folds))
    if len(set(prompts)) >= folds:
        assert len(set(fold_of)) == folds, "no fold is empty"
    assert fold_of == folds_by_prompt(prompts, folds, seed=3)


def test_folds_of_single_prompts_are_equally_large_and_follow_the_seed() -> None:
    prompts = [str(i) for i in range(50)]
    fold_of = folds_by_prompt(prompts, 5, seed=0)
    assert sorted(fold_of) == sorted(list(range(5)) * 10)
    assert fold_of != folds_by_prompt(prompts, 5, seed=1)


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


def test_an_overconfident_judge_gets_a_temperature_and_is_better_for_it() -> None:
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


def test_a_step_is_followed_by_isotonic_given_enough_pairs() -> None:
    def step(p: float) -> float:
        return 0.5 if 0.15 < p < 0.85 else 0.95 if p >= 0.85 else 0.05

    found = choose(*drawn(800, step), 5, seed=0)
    assert found.method == "isotonic"
    assert isinstance(found.curve, Isotonic)
    assert "isotonic" not in choose(*drawn(199, step), 5, seed=0).held_back_nll


def test_a_calibrated_judge_is_left_as_it_is() -> None:
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
def test_more_folds_than_prompts_is_told(folds: int) -> None:
    with pytest.raises(CalibrationError, match="change --folds or give gold pairs on more"):
        choose([0.9] * 40, ["a", "b", "c", "a"] * 10, folds, seed=0)


# ── asking ───────────────────────────────────────────────────────────────────────────────────


def test_a_judge_that_is_right_in_three_of_four_at_nine_to_one_gets_temperature_two(
    tmp_path: Path,
) -> None:
    judge = ScriptedJudge()
    report = calibrate(three_in_four(), judge, tmp_path / "j.jsonl")
    assert (report.pairs, report.judged, report.prompts, report.folds) == (40, 40, 40, 5)
    assert report.choice.method == "temperature"
    assert report.choice.before == measure([0.9] * 30 + [1 - 0.9] * 10)
    assert report.choice.before.ece == pytest.approx(0.15)
    assert report.pick_longer == 0.75
    assert report.calibration.apply(0.9) == pytest.approx(0.75)
    assert report.calibration.constitution_sha256 == judge.sha256
    assert report.calibration.model_sha256 == model_sha256(MODEL)
    assert report.calibration.pairs == 40

    again = calibrate(three_in_four(), judge, tmp_path / "j.jsonl")
    assert again == report
    assert len(judge.asked) == 40, "the journal had them all"


def test_a_killed_calibration_asks_only_for_the_rest(tmp_path: Path) -> None:
    judge = ScriptedJudge()
    judge.stop_after, judge.stop_with = 25, KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        calibrate(three_in_four(), judge, tmp_path / "j.jsonl")
    judge.stop_with = None
    assert calibrate(three_in_four(), judge, tmp_path / "j.jsonl").judged == 40
    assert len(judge.asked) == len(set(judge.asked)) == 40


class Unwilling(ScriptedJudge):
    """Gives no label to pairs whose id ends in a 7."""

    def judge(self, comparison) -> Judgment | Unjudged:
        if comparison.id.endswith("7"):
            return Unjudged(UnjudgedReason.LOW_LABEL_MASS, "would not say")
        return super().judge(comparison)


def test_an_unjudged_pair_is_counted_and_is_no_number(tmp_path: Path) -> None:
    report = calibrate(three_in_four(), Unwilling(), tmp_path / "j.jsonl")
    assert (report.judged, report.unjudged_by_reason) == (36, {"low_label_mass": 4})
    assert report.calibration.pairs == 36
    out = Console(width=100)
    with out.capture() as told:
        calibrating.print_report(report, out)
    assert "4 pairs without a judgment: low_label_mass 4" in told.get()
    assert "temperature, T = " in told.get()
    assert "Isotonic is tried from 200 judged pairs on" in told.get()
    assert "picking the longer response is right on" in told.get()


def test_too_few_judged_pairs_are_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"only 29 of 32 .*low_label_mass 3.*fewer than 30"):
        calibrate(three_in_four(32), Unwilling(), tmp_path / "j.jsonl")
    judge = ScriptedJudge()
    with pytest.raises(CalibrationError, match="29 gold pairs"):
        calibrate(three_in_four(29), judge, tmp_path / "k.jsonl")
    assert judge.asked == []


def test_answers_read_in_different_ways_are_not_mixed(tmp_path: Path) -> None:
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
    """The address of a judge server in a thread of its own; its engine prefers the longer reply."""
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


def test_the_command_stores_what_a_judgment_of_that_server_finds(
    tmp_path: Path, cache: Path
) -> None:
    law = one_principle(tmp_path)
    pairs = write_gold(tmp_path / "gold.jsonl", three_in_four())
    with server(law) as address:
        asked = ["judge", "calibrate", "--gold", str(pairs), "-c", law, "--server", address]
        shown = CliRunner().invoke(app, asked)
        assert shown.exit_code == 0, shown.output
        told = CliRunner().invoke(app, [*asked, "--json"])
    stored = tmp_path / "brief.calibration.json"
    assert "brief.calibration.json" in shown.output
    assert "chosen: temperature" in shown.output
    found = json.loads(told.stdout)
    assert found["file"] == str(stored)
    assert found["choice"]["method"] == "temperature"
    (entry,) = read_calibrations(stored)
    assert found["sha256"] == entry.sha256
    digest = Constitution.load(law).digest
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


def test_a_dry_run_says_the_cost_and_the_place_and_asks_nobody(tmp_path: Path, cache: Path) -> None:
    pairs = write_gold(tmp_path / "gold.jsonl", three_in_four())
    law = one_principle(tmp_path)
    asked = ["judge", "calibrate", "--gold", str(pairs), "-c", law, "--dry-run"]
    shown = CliRunner().invoke(app, asked)
    assert shown.exit_code == 0, shown.output
    assert "would ask for 40 pairs, about 80 reads" in shown.output
    assert not (tmp_path / "brief.calibration.json").exists()
    by_name = CliRunner().invoke(app, ["judge", "calibrate", "--gold", str(pairs), "--dry-run"])
    assert "overall.calibration.json" in by_name.output.replace("\n", "")
    assert not cache.exists()


def test_a_broken_calibration_file_is_told_before_anybody_is_asked(tmp_path: Path) -> None:
    pairs = write_gold(tmp_path / "gold.jsonl", three_in_four())
    law = one_principle(tmp_path)
    (tmp_path / "brief.calibration.json").write_text("{")
    asked = ["judge", "calibrate", "--gold", str(pairs), "-c", law, "--server", "127.0.0.1:1"]
    shown = CliRunner().invoke(app, asked)
    assert isinstance(shown.exception, CalibrationError)
    assert "not a list of calibrations" in str(shown.exception)
