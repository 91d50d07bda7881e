"""Speed measurement: one thread's speed times the available cores."""

from __future__ import annotations

import torch

from hardware import machine, speed


def test_cores_are_torchs_threads_or_the_containers_share(monkeypatch, tmp_path):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(machine, "_QUOTA", tmp_path / "cpu.max")
    assert speed.cores() == 8
    machine._QUOTA.write_text("max 100000\n")
    assert speed.cores() == 8
    machine._QUOTA.write_text("150000 100000\n")
    assert speed.cores() == 1.5


def test_the_speed_is_that_of_the_fastest_repeat(monkeypatch):
    """Ten repeats of three products, each 30 ms on the thread's clock, one of them 3 ms."""
    ticks = iter([t for n in range(10) for t in (n, n + (0.003 if n == 4 else 0.03))])
    monkeypatch.setattr(speed.time, "thread_time", lambda: next(ticks))
    monkeypatch.setattr(speed, "cores", lambda: 2.0)
    threads = torch.get_num_threads()
    gflops = speed.matmul_gflops("float32")
    assert round(gflops, 3) == round(2 * (2 * 128 * 1536 * 6144) / 0.001 / 1e9, 3)
    assert torch.get_num_threads() == threads
