"""Ctrl-C: exit status 130, what has been saved, and what to do next."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from rlaif.cli.commands import prepare
from rlaif.cli.interrupt import SAVED, after_interrupt
from rlaif.cli.main import app
from rlaif.data.records import Prompt, Sample, write_jsonl
from tests.support.service.server_process import ServerProcess
from tests.support.service.serving import one_principle
from tests.support.training.pairs import preference
from tests.support.waiting import wait_until

PAIRS = 40


def command_names(group: typer.Typer, before: str = "") -> set[str]:
    """The words of every command: "label", "train dpo"."""
    names = {
        before + (info.name or getattr(info.callback, "__name__", "").replace("_", "-"))
        for info in group.registered_commands
    }
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        names |= command_names(inner.typer_instance, f"{before}{inner.name} ")
    return names


def test_every_command_in_the_table_exists() -> None:
    assert set(SAVED) <= command_names(app)


@pytest.mark.parametrize(
    ("command", "parameters", "message"),
    [
        ("label", {"out": Path("l")}, "the judge's answers so far are saved in l; run the same"),
        ("sample", {"out": Path("s.jsonl")}, "are in s.jsonl.unfinished; run the same command"),
        ("train dpo", {"out": Path("d"), "resume": "auto"}, "are in d/checkpoints; run the same"),
        ("train dpo", {"out": Path("d"), "resume": "never"}, "without --resume never to resume"),
        ("train dpo", {"out": Path("d"), "dry_run": True}, "there is nothing to resume"),
        ("run", {"recipe": "my/quick.yaml", "out": None}, "are in runs/quick; run the same"),
        ("run", {"recipe": "quickstart", "out": Path("x")}, "are in x; run the same command again"),
        ("evaluate", {"out": Path("e")}, "answers so far are saved in e; run the same command"),
        ("judge compare", {}, "stopped; there is nothing to resume"),
        ("serve", {}, "stopped; there is nothing to resume"),
        ("top", {}, "stopped; there is nothing to resume"),
    ],
)
def test_the_message_names_what_is_saved_and_how_to_resume(
    command: str, parameters: dict[str, object], message: str
) -> None:
    assert message in after_interrupt(command, parameters)


def test_only_the_first_of_several_processes_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted = typer.Typer()

    @interrupted.command()
    def wait() -> None:
        raise KeyboardInterrupt

    prepare(interrupted)
    spoken = CliRunner().invoke(interrupted, [])
    monkeypatch.setenv("RANK", "1")
    silent = CliRunner().invoke(interrupted, [])
    assert (spoken.exit_code, silent.exit_code) == (130, 130)
    assert "stopped" in spoken.output
    assert silent.output == ""


def test_an_interrupted_training_names_its_checkpoints(tiny_model: str, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "pairs.jsonl", [preference(i, f"Yes {i}", "No") for i in range(4)])
    out = tmp_path / "dpo"
    command = [sys.executable, "-m", "rlaif", "train", "dpo", str(tmp_path / "pairs.jsonl")]
    command += ["--model", tiny_model, "--out", str(out), "max_tokens=64", "batch_size=1"]
    command += ["epochs=1000", "checkpoint_every=2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as training:
        wait_until(lambda: [*out.glob("checkpoints/step-*.pt")], seconds=300)
        training.send_signal(signal.SIGINT)
        _, stderr = training.communicate(timeout=300)
    assert training.returncode == 130, stderr
    assert f"checkpoints written so far are in {out}/checkpoints; run the same command" in stderr
    assert "Traceback" not in stderr


def test_an_interrupted_labeling_says_how_to_resume_and_then_resumes(tmp_path: Path) -> None:
    prompts = [
        Prompt(id=f"p{i}", messages=({"role": "user", "content": f"Say {i}"},))
        for i in range(PAIRS)
    ]
    answers = [
        Sample(prompt=prompt, index=i, response=text, tokens=1, complete=True, seed=0)
        for prompt in prompts
        for i, text in enumerate(("yes", "no and more"))
    ]
    write_jsonl(tmp_path / "samples.jsonl", answers)
    out = tmp_path / "labels"
    journal = out / "labels.journal.jsonl"
    with ServerProcess(tmp_path, one_principle(tmp_path), str(tmp_path / "reads.sqlite")) as server:
        server.start(slots=1, seconds=0.1)
        command = [sys.executable, "-m", "rlaif", "label", str(tmp_path / "samples.jsonl")]
        command += ["--out", str(out), "--server", server.address]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as labeling:
            wait_until(lambda: journal.exists() and journal.read_text().count("\n") >= 2)
            labeling.send_signal(signal.SIGINT)
            _, stderr = labeling.communicate(timeout=300)
        assert labeling.returncode == 130, stderr
        assert f"the judge's answers so far are saved in {out}" in stderr
        assert "run the same command again to resume" in stderr
        assert "Traceback" not in stderr
        saved = journal.read_text().splitlines()
        server.stop()
        server.start()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert journal.read_text().splitlines()[: len(saved)] == saved
        assert "pairs already answered" in done.stdout
        assert " 0 pairs already answered" not in done.stdout
