"""`rlaif serve`: its effective settings and its errors."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from constitution.errors import UserError
from judge_service.client import JudgeClient
from judge_service.engines import open_engine
from judge_service.settings import ServerSettings
from judge_service.types import Judgment
from rlaif.cli.main import app
from rlaif.cli.service.serve import DEFAULT_CONTEXT_TOKENS, effective, with_model_folders
from tests.support.service.added_engine import NAME, started

ROOT = Path(__file__).resolve().parents[4]
WITHOUT_VLLM = """
import sys
from judge_service.engines import vllm
from tests.support.fakes import FakeEngine
vllm.VLLMEngine = lambda *_, **__: FakeEngine()
from rlaif.cli.main import main
main()
"""


def rlaif(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rlaif", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def printed(*arguments: str) -> dict[str, object]:
    result = CliRunner().invoke(app, ["serve", "--print-config", *arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    settings: dict[str, object] = yaml.safe_load(result.output)
    return settings


def test_the_flags_of_a_server_reach_its_settings() -> None:
    values = printed(
        "--model", "m", "-c", "hhh", "-c", "overall", "--port", "7", "--kv-cache-gib", "0.5",
        "--max-context-tokens", "512", "--store", "s.sqlite", "--allow-inline", "--insecure",
        "--host", "0.0.0.0", "--exit-on-stdin-close", "--metrics-port", "9", "--log-format", "json",
        "--tls-certificate", "c", "--tls-key", "k", "--tls-client-ca", "a", "--tokens", "t",
    )  # fmt: skip
    assert values["constitutions"] == ["hhh", "overall"]
    assert (values["port"], values["kv_cache_gib"], values["max_context_tokens"]) == (7, 0.5, 512)
    assert (values["store"], values["host"], values["metrics_port"]) == ("s.sqlite", "0.0.0.0", 9)
    assert (values["tls_certificate"], values["tls_key"], values["tls_client_ca"]) == (
        "c",
        "k",
        "a",
    )
    assert (values["tokens"], values["log_format"]) == ("t", "json")
    for flag in ("allow_inline_constitutions", "insecure", "exit_on_stdin_close"):
        assert values[flag] is True


def test_the_dtype_comes_from_a_flag_a_variable_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("model: m\ndtype: float16\nstep_tokens: 128\n")
    variables = {"RLAIF_SERVE_DTYPE": "bfloat16", "RLAIF_SERVE_MODEL": "m"}
    assert effective(None, {"RLAIF_SERVE_MODEL": "m"}, {}).settings.dtype == "auto"
    assert effective(file, {}, {}).settings.dtype == "float16"
    assert effective(file, variables, {}).settings.dtype == "bfloat16"
    values = printed("--config", str(file), "--dtype", "float32", "--step-tokens", "256")
    assert (values["dtype"], values["step_tokens"]) == ("float32", 256)


def test_the_engine_is_opened_in_the_dtype_and_with_the_steps_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: dict[str, object] = {}
    monkeypatch.setattr(
        "judge_service.engines.vllm.VLLMEngine", lambda *_, **settings: opened.update(settings)
    )
    variables = {
        "RLAIF_SERVE_MODEL": "m", "RLAIF_SERVE_DTYPE": "float32", "RLAIF_SERVE_STEP_TOKENS": "256",
    }  # fmt: skip
    open_engine(effective(None, variables, {}).settings)
    assert (opened["dtype"], opened["step_tokens"]) == ("float32", 256)


def test_short_names_of_models_become_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlaif.models.catalog.resolve", lambda name: f"/models/{name}")
    url = {"engine": "openai", "openai_url": "http://127.0.0.1:1"}
    short = "smollm2-135m"
    assert with_model_folders(ServerSettings(model="x")).model == "/models/x"
    served = with_model_folders(ServerSettings(model=short, **url))
    assert (served.model, served.openai_tokenizer) == (short, f"/models/{short}")
    served = with_model_folders(ServerSettings(model="x", openai_tokenizer="a/b", **url))
    assert (served.model, served.openai_tokenizer) == ("x", "a/b")


def test_a_model_behind_a_server_has_its_own_settings_and_the_servers_context() -> None:
    here = printed("--model", "m", "--tensor-parallel-size", "2")
    assert (here["engine"], here["tensor_parallel_size"]) == ("vllm", 2)
    values = printed(
        "--model", "m", "--engine", "openai", "--openai-url", "http://127.0.0.1:8000/v1",
        "--openai-tokenizer", "org/name",
    )  # fmt: skip
    assert (values["engine"], values["openai_tokenizer"]) == ("openai", "org/name")
    assert values["openai_url"] == "http://127.0.0.1:8000/v1"
    assert values["max_context_tokens"] is None


def test_a_store_comes_from_flag_variable_file_or_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLAIF_CACHE", str(tmp_path))
    monkeypatch.delenv("RLAIF_STORE")
    config = tmp_path / "serve.yaml"
    config.write_text("model: m\nstore: file.sqlite\n")
    arguments = ["--config", str(config)]
    assert printed("--model", "m")["store"] == str(tmp_path / "reads.sqlite")
    assert printed(*arguments)["store"] == "file.sqlite"
    monkeypatch.setenv("RLAIF_STORE", "shared.sqlite")
    assert printed(*arguments)["store"] == "shared.sqlite"
    monkeypatch.setenv("RLAIF_SERVE_STORE", "own.sqlite")
    assert printed(*arguments)["store"] == "own.sqlite"
    assert printed(*arguments, "--no-store")["store"] is None
    assert printed(*arguments, "--store", "flag.sqlite")["store"] == "flag.sqlite"


def test_calibrations_come_from_the_cache_unless_they_are_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLAIF_CACHE", str(tmp_path))
    folder = tmp_path / "calibrations"
    folder.mkdir()
    monkeypatch.setattr(
        "judge_service.judge.calibration.calibration_files",
        lambda constitution, where: [where / f"{constitution}.json"],
    )
    variables = {"RLAIF_SERVE_MODEL": "m"}
    configured = effective(None, variables, {})
    assert configured.settings.calibrations == (str(folder / "overall.json"),)
    assert configured.origins["calibrations"] == f"found in {folder}"
    named = effective(None, {**variables, "RLAIF_SERVE_CALIBRATIONS": "mine.json"}, {})
    assert named.settings.calibrations == ("mine.json",)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "setting 'model' is missing"),
        (["--model", "m", "--host", "0.0.0.0"], "--host: host 0.0.0.0 is not loopback"),
        (["--model", "m", "--store", "a", "--no-store"], "exclude each other"),
        (["--model", "m", "--log-format", "xml"], "--log-format: setting 'log_format'"),
        (["--model", "m", "--dtype", "fp32"], "--dtype: setting 'dtype'"),
        (["--config", "none.yaml"], "none.yaml: the settings cannot be read"),
    ],
)
def test_a_mistake_is_one_message(arguments: list[str], problem: str) -> None:
    result = CliRunner().invoke(app, ["serve", "--print-config", *arguments])
    assert isinstance(result.exception, UserError)
    assert problem in str(result.exception)


def test_an_engine_of_one_added_file_serves_through_the_ordinary_command(tmp_path: Path) -> None:
    main = "from rlaif.cli.main import main; main()"
    command = ["serve", "--engine", NAME, "--model", "none", "--port", "0", "--no-store"]
    with (
        started(tmp_path, main, *command, "--constitution", "hhh") as address,
        JudgeClient(address) as judge,
    ):
        judgment = judge.compare("Name a fruit", "A stone.", "An apple, for example.")
        assert isinstance(judgment, Judgment)
        assert judgment.prob_a < 0.2  # the fake engine prefers the longer response
        assert judge.server_info().limits.max_context_tokens == DEFAULT_CONTEXT_TOKENS


@pytest.mark.integration
def test_a_server_from_a_file_notifies_systemd_answers_the_probe_reloads_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RLAIF_STORE")
    config = tmp_path / "serve.yaml"
    config.write_text(f"model: org/fake\nport: {free_port()}\nstore: {tmp_path}/reads.sqlite\n")
    arguments = ["serve", "--config", str(config)]
    assert rlaif(*arguments, "--probe").returncode == 1
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(300)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        command = [sys.executable, "-c", WITHOUT_VLLM, *arguments]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
        ) as server:
            assert systemd.recv(64) == b"READY=1"
            result = rlaif(*arguments, "--probe")
            assert (result.returncode, result.stderr) == (0, "")
            server.send_signal(signal.SIGHUP)
            assert rlaif(*arguments, "--probe").returncode == 0
            server.terminate()
            output, _ = server.communicate(timeout=300)
    assert server.returncode == 0, output
    assert "serving on 127.0.0.1:" in output
    assert (tmp_path / "reads.sqlite").exists()
