"""The wire contract: it only grows, and the committed stubs are generated from it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from google.rpc import status_pb2

from judge_service.v1 import judge_pb2 as pb

ROOT = Path(__file__).resolve().parents[2]
RECORDED = Path(__file__).with_name("contract.txt")
STATUS = descriptor_pb2.FileDescriptorProto.FromString(status_pb2.DESCRIPTOR.serialized_pb)


def contract() -> Iterator[str]:
    """Every part that a caller may rely on, one per line."""
    file = descriptor_pb2.FileDescriptorProto.FromString(pb.DESCRIPTOR.serialized_pb)
    for service in file.service:
        for rpc in service.method:
            streams = f"{rpc.client_streaming:d}{rpc.server_streaming:d}"
            yield f"rpc {service.name}.{rpc.name} {rpc.input_type} {rpc.output_type} {streams}"
    for message in file.message_type:
        for field in message.field:
            oneof = (
                message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else ""
            )
            yield (
                f"field {message.name}.{field.name} = {field.number} "
                f"{field.type_name or field.Type.Name(field.type)} "
                f"{field.Label.Name(field.label)} {oneof}"
            ).rstrip()
    for enum in file.enum_type:
        for value in enum.value:
            yield f"enum {enum.name}.{value.name} = {value.number}"


def fields(file: descriptor_pb2.FileDescriptorProto) -> list[tuple[object, ...]]:
    """The parts of a file's messages that decide their bytes."""
    return [
        (message.name, field.name, field.number, field.type, field.type_name, field.label)
        for message in file.message_type
        for field in message.field
    ]


def test_the_contract_only_grows() -> None:
    recorded = set(RECORDED.read_text(encoding="utf-8").splitlines())
    now = set(contract())
    assert not recorded - now, f"this breaks callers: {sorted(recorded - now)}"
    assert not now - recorded, f"new; add these lines to {RECORDED.name}: {sorted(now - recorded)}"


def test_the_committed_stubs_are_fresh() -> None:
    pytest.importorskip("grpc_tools")
    check = [sys.executable, str(ROOT / "protos" / "generate.py"), "--check"]
    process = subprocess.run(check, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr


def test_the_contract_compiles_with_nothing_but_the_protos_folder(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools")
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    compiled = tmp_path / "contract.binpb"
    protoc = [sys.executable, "-I", "-m", "grpc_tools.protoc", "-I", "protos"]
    outputs = ["--include_imports", f"--descriptor_set_out={compiled}"]
    command = [*protoc, *outputs, "judge_service/v1/judge.proto"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    files = {
        file.name: file
        for file in descriptor_pb2.FileDescriptorSet.FromString(compiled.read_bytes()).file
    }
    assert set(files) == {
        "google/protobuf/any.proto",
        "google/rpc/status.proto",
        "judge_service/v1/judge.proto",
    }
    # The shipped copy is the message that Python's clients get from googleapis-common-protos.
    assert fields(files["google/rpc/status.proto"]) == fields(STATUS)


def test_names_follow_buf_standard_style() -> None:
    for enum in pb.DESCRIPTOR.enum_types_by_name.values():
        prefix = "".join(f"_{c}" if c.isupper() else c.upper() for c in enum.name).lstrip("_")
        assert enum.values_by_number[0].name == f"{prefix}_UNSPECIFIED"
        assert all(value.name.startswith(prefix + "_") for value in enum.values)
    seen: list[Any] = []
    for service in pb.DESCRIPTOR.services_by_name.values():
        assert service.name.endswith("Service")
        for rpc in service.methods:
            assert (rpc.input_type.name, rpc.output_type.name) == (
                f"{rpc.name}Request",
                f"{rpc.name}Response",
            )
            seen += [rpc.input_type.name, rpc.output_type.name]
    assert len(seen) == len(set(seen)), "each RPC has its own request and response"
