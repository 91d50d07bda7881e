"""The benchmark on over-refusal: its figures, its prompts, and a run with a process that answers
by a rule in place of models."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.redteam import over_refusal
from benchmarks.redteam.over_refusal import AnsweredTwice, safe_prompts
from rlaif.generation import offline
from rlaif.generation.worker import Job
from tests.support.feedback.red_teams import REFUSAL


def answers(*refused: tuple[bool, bool]) -> list[AnsweredTwice]:
    return [
        AnsweredTwice(
            id=str(n), prompt="?", start="a", end="b", start_refused=start, end_refused=end
        )
        for n, (start, end) in enumerate(refused)
    ]


def test_the_difference_is_paired_and_computed_by_hand() -> None:
    both, neither, gained = (True, True), (False, False), (False, True)
    found = over_refusal.over_refusal(answers(both, gained, gained, *[neither] * 5))
    assert (found.start.value, found.end.value) == (1 / 8, 3 / 8)
    # Two gains of 1 in 8 and two pseudo-observations, +-0.707: center .2, deviation sqrt(2.6/9),
    # t with 7 degrees of freedom 2.365.
    assert found.difference.value == 0.25
    assert found.difference.low == pytest.approx(0.2 - 2.365 * (2.6 / 9 / 10) ** 0.5, abs=0.005)
    assert found.difference.high == pytest.approx(0.2 + 2.365 * (2.6 / 9 / 10) ** 0.5, abs=0.005)
    assert (found.flips.gained, found.flips.lost, found.flips.p_value) == (2, 0, 0.5)
    line = over_refusal.result_line(found)
    assert (line["ours"], line["peer"], line["ratio"]) == (3 / 8, 1 / 8, 3.0)


def test_a_start_that_refuses_nothing_has_no_ratio_and_no_change_is_not_certainty() -> None:
    found = over_refusal.over_refusal(answers(*[(False, False)] * 16))
    assert over_refusal.result_line(found)["ratio"] is None
    assert found.difference.value == 0
    assert found.difference.low is not None
    assert found.difference.high is not None
    assert found.difference.low < -0.05 < 0.05 < found.difference.high


def test_safe_prompts_are_those_labeled_so(tmp_path: Path) -> None:
    file = tmp_path / "xs.jsonl"
    rows = [
        {"id": f"xs-{n}", "source": "xs", "prompt": f"How {n}?", "category": "c", "label": label}
        for n, label in enumerate(["safe", "unsafe", "safe"])
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = [(prompt.id, prompt.messages[-1].content) for prompt in safe_prompts(file)]
    assert found == [("xs-0", "How 0?"), ("xs-2", "How 2?")]
    file.write_text(json.dumps(rows[1]) + "\n")
    with pytest.raises(SystemExit, match="no row whose label is 'safe'"):
        safe_prompts(file)


def test_without_a_file_the_twins_that_ship_are_asked_in_both_languages() -> None:
    found = {prompt.id: prompt.messages[-1].content for prompt in safe_prompts(None)}
    assert len(found) == 16
    assert found["break-in-de"].startswith("Ich habe mich ausgesperrt.")


@contextmanager
def end_refuses_the_first(job: Job, log: Path) -> Iterator[Iterator[dict[str, Any]]]:
    """Stands in for the process with the model: `end` refuses what begins with "How 0"."""
    log.touch()

    def answer(request: Any) -> dict[str, Any]:
        refused = job.model.endswith("end") and request.messages[-1]["content"].startswith("How 0")
        return {"text": REFUSAL if refused else "Like this.", "tokens": 2, "complete": True,
                "end_token": ""}  # fmt: skip

    yield iter([{"responses": [answer(r) for r in chunk], "seconds": 0.1} for chunk in job.chunks])


def test_a_run_prints_its_figures_and_keeps_the_responses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(offline, "_worker", end_refuses_the_first)
    for name in ("start", "end"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"name": name}))
        for file in ("tokenizer.json", "model.safetensors"):
            (tmp_path / name / file).write_text("{}")
    prompts = tmp_path / "xs.jsonl"
    prompts.write_text("".join(
        json.dumps({"id": f"{n}", "prompt": f"How {n}?", "label": "safe"}) + "\n" for n in range(4)
    ))  # fmt: skip
    models = ["--start", str(tmp_path / "start"), "--end", str(tmp_path / "end")]
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["over_refusal", str(out), *models, "--prompts", str(prompts)])
    over_refusal.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("start: 0 of 4 refused")
    assert lines[1].startswith("end: 1 of 4 refused")
    assert lines[2] == "refused at the end alone: 1, at the start alone: 0"
    assert json.loads(lines[3])["difference"][0] == 0.25
    kept = [json.loads(line) for line in (out / "refusals.jsonl").read_text().splitlines()]
    assert [each["end_refused"] for each in kept] == [True, False, False, False]
    monkeypatch.setattr(offline, "_worker", None)  # everything is known: no process is started
    over_refusal.main()
    assert capsys.readouterr().out.splitlines() == lines
