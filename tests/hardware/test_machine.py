"""Facts about a machine, from files and a program that each test writes itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hardware import machine
from hardware.dtypes import cpu_multiplies_bfloat16

CPUINFO = """\
processor\t: 0
model name\t: Imaginary 9000
flags\t\t: fpu avx2 {flags}

processor\t: 1
model name\t: Another
flags\t\t: none
"""


@pytest.fixture
def quota(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    file = tmp_path / "cpu.max"
    monkeypatch.setattr(machine, "_QUOTA", file)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    return file


def test_cores_are_those_allowed_or_the_containers_share(quota: Path) -> None:
    assert (machine.cpu_quota(), machine.usable_cores()) == (None, 4)
    quota.write_text("max 100000\n")
    assert (machine.cpu_quota(), machine.usable_cores()) == (None, 4)
    quota.write_text("150000 100000\n")
    assert (machine.cpu_quota(), machine.usable_cores()) == (1.5, 1.5)
    quota.write_text("900000 100000\n")
    assert machine.usable_cores() == 4


@pytest.mark.parametrize(("flags", "native"), [("", False), ("avx512_bf16", True)])
def test_the_processor_is_the_first_one_that_linux_lists(
    flags: str, native: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr(machine, "_CPUINFO", file)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    assert (machine.cpu_name(), machine.cpu_instructions()) == ("", frozenset())
    file.write_text(CPUINFO.format(flags=flags))
    assert machine.cpu_name() == "Imaginary 9000"
    assert cpu_multiplies_bfloat16(machine.cpu_instructions()) is native
    file.write_text("processor : 0\nFeatures : fp asimd bf16\n")
    assert cpu_multiplies_bfloat16(machine.cpu_instructions())


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (
            "echo '81920, 80000, Imaginary H1, big'; echo '1024, 512, Small'",
            [
                machine.Gpu("Imaginary H1, big", 81920 * 2**20, 80000 * 2**20),
                machine.Gpu("Small", 2**30, 2**29),
            ],
        ),
        ("echo 'no devices were found' >&2; exit 6", []),
        ("echo 'x, y, z'", []),
    ],
)
def test_gpus_are_those_that_nvidia_smi_lists(
    body: str, found: list[machine.Gpu], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert machine.gpus() == found


def test_there_are_no_gpus_without_nvidia_smi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert machine.gpus() == []


def test_free_disk_is_that_of_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    there, not_yet = machine.free_disk_bytes(tmp_path), tmp_path / "a" / "b"
    assert there > 0
    assert abs(machine.free_disk_bytes(not_yet) - there) < 10**9
    assert not not_yet.exists()
