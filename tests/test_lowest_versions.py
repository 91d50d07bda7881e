"""The lowest gRPC and protobuf that pyproject.toml allows: what `make test-lowest` installs."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
STUBS = ROOT / "judge_service" / "v1"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lowest", ROOT / ".ci" / "lowest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_lowest_versions_are_those_of_grpc_and_protobuf_in_every_extra(
    script: ModuleType,
) -> None:
    extras = {
        "serve": ["grpcio-status>=1.71,<2", "prometheus-client>=0.21"],
        "dev": ["grpcio-tools==1.71.2", "types-protobuf>=5.29"],
    }
    project = {
        "dependencies": ["pyyaml>=6.0", "grpcio<2,>=1.71.2", "protobuf >= 5.29.6"],
        "optional-dependencies": extras,
    }
    assert script.lowest(project) == {
        "grpcio": "1.71.2",
        "protobuf": "5.29.6",
        "grpcio-status": "1.71",
    }


def test_a_requirement_without_a_lower_bound_is_an_error(script: ModuleType) -> None:
    project = {"dependencies": ["grpcio<2"], "optional-dependencies": {}}
    with pytest.raises(SystemExit, match="no lower bound: grpcio<2; write grpcio>=VERSION"):
        script.lowest(project)


def test_another_version_than_the_lowest_is_named(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = {"grpcio": "1.85.3", "grpcio-status": "1.71.0"}
    monkeypatch.setattr(script.metadata, "version", installed.__getitem__)
    wanted = {"grpcio": "1.71.2", "grpcio-status": "1.71"}
    assert script.others(wanted) == ["grpcio 1.85.3 instead of 1.71.2"]


def test_the_stubs_run_on_the_lowest_versions(script: ModuleType) -> None:
    lowest = script.lowest(PROJECT)
    # Each generated file refuses to load beside an older runtime than its generator's.
    grpc = re.search(
        r"^GRPC_GENERATED_VERSION = '([\d.]+)'", (STUBS / "judge_pb2_grpc.py").read_text(), re.M
    )
    protobuf = re.search(
        r"ValidateProtobufRuntimeVersion\(\s*\S+\s+(\d+),\s*(\d+),\s*(\d+),",
        (STUBS / "judge_pb2.py").read_text(),
    )
    assert grpc is not None
    assert protobuf is not None
    assert script.release(grpc[1]) <= script.release(lowest["grpcio"])
    assert script.release(".".join(protobuf.groups())) <= script.release(lowest["protobuf"])
