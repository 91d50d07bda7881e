"""The base install, without extras: a working client that imports nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

CODE = """
import json, sys
from pathlib import Path
from google import protobuf
from constitution.errors import UserError
from judge_service.client import AsyncJudgeClient, JudgeClient, JudgeUnavailable
from judge_service.v1 import judge_pb2

message = judge_pb2.Judgment(verdict="VERDICT_A", prob_a=0.75, trait_probs={"honest": 0.5})
assert judge_pb2.Judgment.FromString(message.SerializeToString()) == message
try:
    with JudgeClient("127.0.0.1:1") as client:
        client.compare("Name a fruit", "An apple.", "A stone.")
except JudgeUnavailable as error:
    message = str(error)
from constitution.schema import Constitution
ours = ["constitution", "hardware", "judge_service", "rlaif"]
site = Path(judge_pb2.__file__).parents[2]
heavy = {"torch", "vllm", "transformers", "numpy", "datasets", "grpc_status", "pydantic_settings"}
print(json.dumps({
    "heavy": sorted(heavy & set(sys.modules)),
    "error": message,
    "file": judge_pb2.__file__,
    "constitutions": Constitution.library_names(),
    "typed": [name for name in ours if (site / name / "py.typed").is_file()],
}))
"""


@pytest.mark.integration
def test_the_client_works_with_the_base_install_alone(tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    for command in (
        [sys.executable, "-m", "venv", str(tmp_path / "venv")],
        [str(python), "-m", "pip", "install", "--quiet", str(ROOT)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    ran = subprocess.run(
        [str(python), "-W", "error", "-c", CODE],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout)
    assert result["heavy"] == []
    assert "rlaif serve" in result["error"]
    assert str(tmp_path) in result["file"], "the installed package, not this checkout"
    assert "hhh" in result["constitutions"]
    assert result["typed"] == ["constitution", "hardware", "judge_service", "rlaif"]
