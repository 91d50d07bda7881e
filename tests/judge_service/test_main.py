"""`python -m judge_service`: a server without rlaif, with flags generated from the settings."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from judge_service.__main__ import main
from judge_service.client import JudgeClient
from judge_service.settings import GROUPS, ServerSettings
from judge_service.settings_flags import OTHER_FLAGS, server_parser, setting_flags
from judge_service.types import Judgment
from tests.support.service.added_engine import NAME, started

WITHOUT_RLAIF = """
import runpy, sys
sys.modules["rlaif"] = None  # any import of it fails from here on
runpy.run_module("judge_service", run_name="__main__", alter_sys=True)
"""

PROGRAMS = (["-m", "judge_service"], ["-m", "rlaif", "serve"])


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["--print-config", *arguments]) == 0
    settings: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return settings


def failed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 1
    output = capsys.readouterr()
    assert output.out == ""
    return output.err


def test_a_server_without_rlaif_judges_over_a_socket(tmp_path: Path) -> None:
    config = tmp_path / "serve.yaml"
    config.write_text(
        f"model: none\nengine: {NAME}\nport: 0\nstore: reads.sqlite\nconstitutions: [hhh]\n"
    )
    with started(tmp_path, WITHOUT_RLAIF, "--config", str(config)) as address:
        with JudgeClient(address) as judge:
            judgment = judge.compare("Name a fruit", "An apple, for example.", "A stone.")
            limits = judge.server_info().limits
        assert isinstance(judgment, Judgment)
        assert judgment.prob_a > 0.8  # the fake engine prefers the longer response
        assert judgment.usage.reads > 0
        assert limits.max_context_tokens == 2048
    assert (tmp_path / "reads.sqlite").exists()


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_imports_neither_an_engine_nor_grpc(program: list[str]) -> None:
    code = (
        "import runpy, sys\n"
        f"sys.argv[1:] = {[*program[2:], '--help']!r}\n"
        "try:\n"
        f"    runpy.run_module({program[1]!r}, run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        "heavy = {'torch', 'vllm', 'transformers', 'grpc', 'google.protobuf', 'sqlalchemy'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    assert ran.stdout.splitlines()[-1] == "[]"
    assert "Examples:" in ran.stdout


def test_every_setting_has_a_flag_with_its_description() -> None:
    flags = {flag.field: flag for flag in setting_flags()}
    assert list(flags) == list(ServerSettings.model_fields)
    names = [name for flag in flags.values() for name in (*flag.names, flag.negation) if name]
    assert len(names) == len(set(names))
    help_text = " ".join(server_parser("x", "", "").format_help().split())
    for flag in flags.values():
        assert flag.help in help_text
        assert flag.names[0] in help_text
    assert flags["constitutions"].names == ("--constitution", "-c")
    shown = {name: (flag.metavar, flag.default) for name, flag in flags.items()}
    assert shown["max_candidates"] == ("<candidates>", "32")
    assert shown["tokens"] == ("<file>", "unset")
    assert shown["kv_cache_gib"] == ("<GiB>", "unset")
    assert shown["dtype"] == ("<auto|bfloat16|float16|float32>", "auto")
    assert shown["engine"] == ("<vllm|openai|planted>", "vllm")
    assert shown["insecure"] == ("", "off")
    assert shown["model"] == ("<model>", "")


def headings(help_text: str) -> dict[str, str]:
    """Flag → the heading that it stands under."""
    found, heading = {}, ""
    for line in help_text.splitlines():
        if line and not line[0].isspace() and line.endswith(":"):
            heading = line[:-1]
        elif named := re.match(r"  (?:-\w, )?(--[\w-]+)", line):
            found[named[1]] = heading
    return found


def test_every_setting_stands_under_its_group_with_its_unit_and_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = server_parser("x", "", "", {"store": "a file of the command"}).format_help()
    under = headings(text)
    for flag in setting_flags():
        assert flag.group in GROUPS
        assert under[flag.names[0]] == flag.group
        assert flag.metavar != "<>", f"{flag.field} has no unit"
    assert {under[name] for name in OTHER_FLAGS} == {"Configuration"}
    assert list(dict.fromkeys(under.values())) == ["Configuration", *GROUPS]
    words = " ".join(text.split())
    assert "[default: a file of the command]" in words
    settings = list(setting_flags())
    assert words.count("[default: ") == len(settings) - 1
    assert words.count("[required]") == 1  # model


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_help_fits_into_80_columns(program: list[str]) -> None:
    ran = subprocess.run(
        [sys.executable, *program, "--help"], env=os.environ | {"COLUMNS": "80"},
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    lines = ran.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if line.endswith("[default:")]


def test_flags_reach_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    settings = printed(
        capsys, "--model", "m", "-c", "hhh", "-c", "overall", "--max-candidates", "7",
        "--grace-seconds", "0.5", "--no-reflection", "--metrics-host", "::1", "--port=6000",
        "--calibration", "a.json", "--otlp-endpoint", "http://c:4317",
    )  # fmt: skip
    assert settings["constitutions"] == ["hhh", "overall"]
    assert (settings["max_candidates"], settings["grace_seconds"]) == (7, 0.5)
    assert (settings["reflection"], settings["metrics_host"]) == (False, "::1")
    assert (settings["port"], settings["calibrations"]) == (6000, ["a.json"])
    assert settings["otlp_endpoint"] == "http://c:4317"


def test_a_negated_flag_overrides_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("model: m\nstore: a.sqlite\nreflection: true\n")
    assert printed(capsys, "--config", str(file))["store"] == "a.sqlite"
    settings = printed(capsys, "--config", str(file), "--no-store", "--no-reflection")
    assert (settings["store"], settings["reflection"]) == (None, False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: setting 'model' is missing; set it"),
        (["--model", "m", "--port", "70000"], "error: --port: setting 'port': "),
        (["--model", "m", "--port", "many"], "error: --port: setting 'port': "),
        (["--model", "m", "--engine", "vlm"], "planted; did you mean 'vllm'? (found 'vlm')"),
        (["--model", "m", "--store", "a", "--no-store"], "exclude each other"),
        (["--config", "none.yaml"], "none.yaml: the settings cannot be read"),
        (["--model", "m", "--port", "1", "--probe"], "error: 127.0.0.1:1 does not answer"),
    ],
)
def test_a_users_error_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = failed(capsys, *arguments)
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prot", "1"], "error: unknown flag --prot; did you mean --port?"),
        (["model"], "error: unexpected argument model"),
        (["--model"], "error: argument --model: expected one argument"),
        (["--max-cand", "1"], "error: unknown flag --max-cand; did you mean"),
    ],
)
def test_wrong_usage_is_one_line_and_exits_with_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert len(error.splitlines()) == 1
