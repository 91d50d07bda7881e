"""From gold pairs and candidates to an adopted one, on a judge that prefers the longer response."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from constitution.errors import UserError
from judge_service.judge.calibration import (
    CalibrationError,
    Temperature,
    read_calibrations,
)
from judge_service.judge.reader import FittedReader
from judge_service.types import ModelIdentity
from rlaif.cli.main import app
from rlaif.labels.calibrate import GoldPair
from rlaif.labels.promotion.candidates import Candidate, Kind
from rlaif.labels.promotion.gain import Metric
from rlaif.labels.promotion.promote import (
    JudgeAsItIs,
    PromotionReport,
    gold_pairs,
    promote,
    sample_prompts,
)
from tests.support.fakes import FakeEngine, parse
from tests.support.feedback.constitutions import make_constitution, principle
from tests.support.feedback.local_judge import LocalJudge
from tests.support.service.serving import one_principle, serving

LONG, SHORT = "a longer answer that says what to do next", "do this"
CONSTITUTION = make_constitution(principle(0))


def gold(n: int = 80) -> list[GoldPair]:
    """The shorter response is the better one in three pairs of four."""
    pairs = []
    for i in range(n):
        chosen, rejected = (LONG, SHORT) if i % 4 == 0 else (SHORT, LONG)
        pairs.append(GoldPair(id=f"g{i}", prompt=f"question {i}", chosen=chosen, rejected=rejected))
    return pairs


class Other(FakeEngine):
    """Another model, whose answers the journal keeps apart."""

    @property
    def identity(self) -> ModelIdentity:
        return replace(super().identity, name="other", weights_sha256="2" * 64)


class Judges:
    """Connects to local judges: "" is the one that prefers the longer response."""

    def __init__(self) -> None:
        self.judges = {
            "": LocalJudge(CONSTITUTION),
            "right": LocalJudge(CONSTITUTION, engine=_prefers_shorter()),
        }
        self.opened: list[str] = []

    @contextmanager
    def __call__(
        self, model: str, server: str, constitutions: Sequence[str]
    ) -> Iterator[LocalJudge]:
        self.opened.append(model or server)
        yield self.judges[model]


def _prefers_shorter() -> FakeEngine:
    def answer(prompt: str) -> tuple[float, float]:
        first = 0.9 if len(parse(prompt).first) < 20 else 0.1
        return math.log(first), math.log(1 - first)

    return Other(answer)


def tried(tmp_path: Path, *candidates: str, pairs: list[GoldPair] | None = None,
          metric: Metric | None = None) -> PromotionReport:  # fmt: skip
    return promote(
        pairs or gold(),
        JudgeAsItIs("", "", CONSTITUTION.name),
        [Candidate.parse(text) for text in candidates],
        Judges(),
        tmp_path / "journal.jsonl",
        metric=metric,
        command="by a test",
    )


def test_a_reader_that_undoes_a_preference_for_length_is_adopted(tmp_path: Path) -> None:
    report = tried(tmp_path, "reader")
    (trial,) = report.trials
    assert report.adopted is trial
    # Right on a quarter of the pairs before, on three quarters after.
    assert trial.base == pytest.approx(0.25, abs=0.13)
    assert trial.candidate == pytest.approx(1 - trial.base)
    assert (report.fitted_on, report.tested_on, trial.gain.n) == (40, 40, 40)
    assert report.calibration is not None
    assert report.calibration.pairs == 40
    assert isinstance(report.calibration.curve, FittedReader)
    assert report.calibration.curve.command == "by a test"
    assert report.calibration.constitution_sha256 == CONSTITUTION.digest


def test_what_changes_no_verdict_is_tried_by_log_loss(tmp_path: Path) -> None:
    report = tried(tmp_path, "calibration", "protocol:pairwise")
    curve, same = report.trials
    assert (curve.metric, same.metric) == (Metric.LOG_LOSS, Metric.ACCURACY)
    assert report.adopted is curve  # confidence in wrong answers costs the judge log loss
    assert report.calibration is not None
    assert isinstance(report.calibration.curve, Temperature)
    assert (same.gain.value, same.passed) == (0.0, False)


def test_another_judge_reads_the_test_rows_only_and_is_adopted(tmp_path: Path) -> None:
    report = tried(tmp_path, "reader", "judge:right")
    assert [trial.passed for trial in report.trials] == [True, True]
    alone = tried(tmp_path, "judge:right")
    assert (alone.fitted_on, alone.tested_on) == (0, 80)
    assert alone.adopted is not None
    assert alone.calibration is None


def test_answers_are_reused_so_a_second_run_reads_nothing(tmp_path: Path) -> None:
    judges = Judges()
    for _ in range(2):
        promote(
            gold(40), JudgeAsItIs("", "", CONSTITUTION.name), [Candidate(Kind.READER)], judges,
            tmp_path / "journal.jsonl",
        )  # fmt: skip
    assert len(judges.judges[""].engine.prompts) == 2 * 40
    assert judges.opened == ["", ""]


def test_a_calibration_for_another_judge_is_refused_in_words(tmp_path: Path) -> None:
    report = tried(tmp_path, "reader")
    assert report.calibration is not None
    entry = {
        "constitution": "other", "constitution_sha256": "d" * 64, "model": "fake",
        "model_sha256": report.calibration.model_sha256,
        "template_version": report.calibration.template_version, "protocol": "pairwise",
        "pairs": 30, "curve": {"kind": "temperature", "temperature": 2.0},
    }  # fmt: skip
    file = tmp_path / "other.json"
    file.write_text(json.dumps([entry]))
    with pytest.raises(CalibrationError, match="constitution other dddddddddddd, not small"):
        tried(tmp_path, f"calibration:{file}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raeder", "unknown candidate: 'raeder'; .*reader"),
        ("reader:x", "write reader, which is fitted here, or calibration:FILE"),
        ("judge", "invalid candidate: 'judge'; write judge:VALUE"),
        ("calibration:", "write calibration:VALUE"),
        ("protocol:pair", "unknown protocol: 'pair'"),
    ],
)
def test_a_candidate_that_is_none_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Candidate.parse(text)


def test_gold_questions_become_pairs_and_a_sample_keeps_whole_prompts(tmp_path: Path) -> None:
    path = write_gold(tmp_path / "gold.jsonl", [*gold(10), *gold(10)])
    pairs = gold_pairs(path)
    assert len(pairs) == 10  # equal pairs count once
    assert pairs[1].chosen == SHORT
    kept = sample_prompts(pairs, 4, seed=0)
    assert len({pair.prompt_digest for pair in kept}) == 4
    assert set(kept) < set(sample_prompts(pairs, 6, seed=0))


# ── the command ──────────────────────────────────────────────────────────────────────────────


def write_gold(path: Path, pairs: list[GoldPair]) -> Path:
    lines = (
        {"prompt": p.prompt[0].content, "chosen": p.chosen, "rejected": p.rejected} for p in pairs
    )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@contextmanager
def server(constitution: str) -> Iterator[str]:
    """The address of a judge that prefers the longer response, served from another thread."""
    address, ready, stop = "", threading.Event(), threading.Event()

    async def serve() -> None:
        nonlocal address
        async with serving(FakeEngine(), constitutions=(constitution,)) as running:
            address = running.address
            ready.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    ready.wait()
    try:
        yield address
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RLAIF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_command_writes_the_reader_and_a_record_and_exits_by_what_it_found(
    tmp_path: Path, cache: Path
) -> None:
    constitution = one_principle(tmp_path)
    path = write_gold(tmp_path / "gold.jsonl", gold())
    with server(constitution) as address:
        command = ["judge", "promote", "--gold", str(path), "-c", constitution]
        command += ["--server", address]
        adopted = CliRunner().invoke(app, [*command, "--candidate", "reader"])
        nobody = CliRunner().invoke(app, [*command, "--candidate", "protocol:pairwise", "--json"])
        elsewhere = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "own.json")])
    assert adopted.exit_code == 0, adopted.output
    stored = tmp_path / "brief.calibration.json"
    (entry,) = read_calibrations(stored)
    assert entry.kind == "reader"
    with server(constitution) as address:
        curve = ["judge", "calibrate", "--gold", str(path), "-c", constitution]
        replaced = CliRunner().invoke(app, [*curve, "--server", address])
    assert f"it replaces the reader {entry.sha256[:16]}" in " ".join(replaced.output.split())
    assert entry.sha256[:16] in adopted.output
    assert f"now: {FakeEngine().identity.name} by brief" in adopted.output
    # A server does not look for a file of another name by itself.
    said = " ".join(adopted.output.split()), "".join(elsewhere.output.split())
    assert "servers started with this constitution apply it" in said[0]
    assert f"serversstartedwith--calibration{tmp_path / 'own.json'}applyit" in said[1]
    assert nobody.exit_code == 1
    found = json.loads(nobody.stdout)
    assert (found["adopted"], found["file"]) == (None, None)
    lines = (cache / "calibrations" / "promotions.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [r["calibration"] for r in records[:2]] == [entry.sha256, None]


def test_a_dry_run_needs_no_judge_and_a_mistake_is_found_before_one_is_asked(
    tmp_path: Path, cache: Path
) -> None:
    path = write_gold(tmp_path / "gold.jsonl", gold(40))
    constitution = one_principle(tmp_path)
    command = ["judge", "promote", "--gold", str(path), "-c", constitution, "--server", "x:1"]
    shown = CliRunner().invoke(app, [*command, "--dry-run", "--candidate", "server:y:2"])
    assert shown.exit_code == 0, shown.output
    assert "would judge 40 pairs with about 80 reads" in shown.output
    assert not cache.exists()
    for more, message in (
        (["--by", "speed"], "unknown metric: 'speed'; --by takes accuracy or log_loss"),
        (["--candidate", "reader", "--candidate", "reader"], "named twice"),
        (["--candidate", "judge:nobody"], "unknown model 'nobody'"),
        (["--candidate", "server:nobody"], "'server:nobody'; write server:HOST:PORT"),
        (["--judge", "nobody"], "unknown model 'nobody'"),
        # Too few prompts are known before a judge is asked, in a dry run as in the run.
        (["--limit", "39", "--dry-run"], "too few gold prompts to adopt anything: 39; give 40 or"),
        (["--limit", "19", "--candidate", "protocol:pointwise"], "19; give 20 or more, to test on"),
    ):
        refused = CliRunner().invoke(app, [*command, *more])
        assert message in str(refused.exception)
