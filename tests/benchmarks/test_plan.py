"""The arithmetic of benchmarks/scale/plan.py, worked by hand, and its small tools."""

from __future__ import annotations

import socket
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.scale import plan as planning
from benchmarks.scale import shards
from benchmarks.scale.planning.arithmetic import (
    Assumptions,
    CostLine,
    PairCosts,
    ResourceHours,
    disk_bytes,
    hosts_within,
    plan,
    resource_hours,
    slowest,
)
from benchmarks.scale.planning.commands import measured
from benchmarks.scale.planning.costs import MeasuredCosts
from benchmarks.scale.planning.relay import relayed

COSTS = PairCosts(
    cpu={
        "split": 0.0001, "sample": 0.0002, "label": 0.002, "server": 0.003, "stats": 0.0004,
        "verify": 0.0005, "export": 0.0001, "prepare": 0.001,
    },
    size={
        "samples": 500, "labels": 1500, "store": 400, "export": 1000, "corpus": 600,
        "rpc": 4000, "journal": 2000,
    },
    tokens=400, reads=2, fsync_s=0.005, fsync_entries=256, shard_rows=1000,
)  # fmt: skip
ASSUMED = Assumptions(
    hosts=2, gpus_per_host=8, cores_per_host=32, processes_per_host=4, gpus_per_judge=4,
    reads_rate=50, sampler_rate=1000, training_rate=2000, response_tokens=100, epochs=1,
    network_gbit=10, within_hours=24,
)  # fmt: skip


def hours(costs: PairCosts = COSTS, given: Assumptions = ASSUMED) -> dict[tuple[str, str], float]:
    """Of 3.6 million pairs, so that a millisecond a pair is an hour."""
    return {(r.stage, r.resource): r.hours for r in resource_hours(3_600_000, costs, given)}


def test_a_line_goes_through_both_sizes() -> None:
    line = CostLine.through((500, 4.0), (4000, 11.0))  # 7 more for 3500 more
    assert line.each == pytest.approx(0.002)
    assert line.fixed == pytest.approx(3.0)
    assert line.at(10_000) == pytest.approx(23.0)


def test_each_resource_takes_the_hours_worked_by_hand() -> None:
    found = hours()
    assert found["split", "1 process"] == pytest.approx(0.1)
    assert found["sample", "GPUs"] == pytest.approx(200 / 1000 / 16 * 1000)  # 12.5
    assert found["sample", "drivers"] == pytest.approx(0.2 / 16)
    assert found["label", "GPUs"] == pytest.approx(2 / 50 / 16 * 1000)  # 2.5
    assert found["label", "servers"] == pytest.approx(3 / 4)  # 16 GPUs are 4 servers
    assert found["label", "labelers"] == pytest.approx(2 / 8)
    assert found["label", "host cores"] == pytest.approx(5 / 64)
    assert found["label", "fsync"] == pytest.approx(5 / 256 / 8)
    assert found["label", "network"] == pytest.approx(4000 / 2.5e9 * 1000)  # 2 * 1.25 GB/s
    assert found["read", "1 verify"] == pytest.approx(0.5)
    assert found["prepare", "processes"] == pytest.approx(1 / 8)
    assert found["train", "GPUs"] == pytest.approx(400 / 2000 / 16 * 1000)  # 12.5


def test_a_fast_judge_leaves_its_server_as_the_bottleneck() -> None:
    fast = replace(ASSUMED, reads_rate=1000, sampler_rate=1e6, training_rate=1e6)
    assert hours(given=fast)["label", "GPUs"] == pytest.approx(0.125)
    found = plan(3_600_000, COSTS, fast)
    assert (found.bottleneck.stage, found.bottleneck.resource) == ("label", "servers")


def test_a_plan_adds_the_slowest_resource_of_each_stage() -> None:
    found = plan(3_600_000, COSTS, ASSUMED)
    assert [round(s.hours, 3) for s in found.stages] == [0.1, 12.5, 2.5, 0.5, 0.125, 12.5]
    assert found.hours == pytest.approx(28.225)


def test_hosts_within_divides_what_scales_and_leaves_single_processes() -> None:
    # 0.6 h do not scale; 27.625 h on 2 hosts are 55.25 of one. 55.25 / 3 + 0.6 = 19.02 <= 24.
    assert plan(3_600_000, COSTS, ASSUMED).hosts == 3
    assert plan(3_600_000, COSTS, replace(ASSUMED, within_hours=19)).hosts == 4


def test_hosts_within_is_none_where_one_process_takes_longer() -> None:
    assert plan(3_600_000, COSTS, replace(ASSUMED, within_hours=0.6)).hosts is None
    assert hosts_within([ResourceHours("a", "GPUs", 0.5)], 1, 1.0) == 1
    assert hosts_within([ResourceHours("a", "GPUs", 7.0)], 1, 1.0) == 7


def test_the_slowest_resource_may_change_with_the_hosts() -> None:
    # With 2 hosts the GPUs take 8 h; with 5 they take 3.2, and the single process 4.
    both = [ResourceHours("a", "GPUs", 8.0), ResourceHours("a", "1 process", 4.0, scales=False)]
    assert [r.resource for r in slowest(both)] == ["GPUs"]
    assert hosts_within(both, 2, 4.0) == 4
    assert hosts_within(both, 2, 3.9) is None


def test_disk_holds_all_that_is_kept_and_one_shards_journal_per_process() -> None:
    found = disk_bytes(1_000_000, COSTS, ASSUMED)
    assert found["labels"] == 1.5e9
    assert found["journals"] == 8 * 1000 * 2000
    assert sum(found.values()) == 4000 * 1e6 + 16e6
    assert disk_bytes(10, COSTS, ASSUMED)["journals"] == 10 * 2000


def measured_costs(**changed: tuple[float, float]) -> MeasuredCosts:
    cpu = {f"cpu.{name}": (1 + 500 * c, 1 + 4000 * c) for name, c in COSTS.cpu.items()}
    size = {f"size.{name}": (500.0 * c, 4000.0 * c) for name, c in COSTS.size.items()}
    del size["size.journal"]
    return MeasuredCosts(
        machine="", tokenizer="", principles=1, shard_rows=1000, sizes=(500, 4000),
        figures=cpu | size | {"tokens": (2e5, 16e5), "reads": (1e3, 8e3)} | changed,
        journal_bytes=2000, fsync_s=0.005,
    )  # fmt: skip


def test_measured_figures_become_the_costs_of_a_pair_without_the_start(tmp_path: Path) -> None:
    file = tmp_path / "costs.json"
    file.write_text(measured_costs().model_dump_json())
    found = MeasuredCosts.read(file).of_a_pair()
    assert found.cpu == pytest.approx(COSTS.cpu)
    assert found.size == pytest.approx(COSTS.size)
    assert (found.tokens, found.reads) == (400, 2)


def test_a_figure_that_did_not_grow_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"cpu\.stats: did not grow from 500 to 4000 pairs"):
        measured_costs(**{"cpu.stats": (1.2, 1.1)}).of_a_pair()


def test_the_table_names_bottleneck_disk_and_hosts() -> None:
    lines = planning.table([plan(n, COSTS, ASSUMED) for n in (10**6, 10**9)], 24).splitlines()
    assert lines[0].split()[:4] == ["pairs", "split", "h", "sample"]
    assert lines[1].split()[0] == "1e+06"
    assert "sample: GPUs, 44%" in lines[1]
    assert lines[1].split()[-1] == "1"  # 7.84 h on 2 hosts
    assert "4.000" in lines[2].split()
    assert lines[2].endswith("none: 1 process")


def test_every_assumption_has_a_help_text() -> None:
    assert set(planning.HELP) == set(Assumptions.__dataclass_fields__)


def test_the_least_of_the_rounds_counts_for_each_figure_alone() -> None:
    rounds = [{"cpu.label": 3.0, "cpu.server": 4.0}, {"cpu.label": 2.0, "cpu.server": 5.0}]
    assert planning.least(rounds) == {"cpu.label": 2.0, "cpu.server": 4.0}


def test_chosen_commands_come_with_those_that_make_their_source() -> None:
    names = ["shards split (samples)", "label", "shards split (labels)", "labels stats"]
    assert shards.chosen(["labels"], names) == names[2:]
    assert shards.chosen([], names) == names


def test_a_command_is_measured_without_the_memory_of_who_started_it() -> None:
    ballast = bytearray(300 * 2**20)
    ballast[::4096] = b"x" * len(ballast[::4096])
    used = measured("--version")
    assert used.cpu_s > 0.01
    assert 5 < used.peak_mib < 250


def test_the_relay_counts_both_directions() -> None:
    with socket.create_server(("127.0.0.1", 0)) as echo:

        def answer() -> None:
            connection, _ = echo.accept()
            with connection:
                connection.sendall(connection.recv(100) * 2)

        threading.Thread(target=answer, daemon=True).start()
        with relayed(f"127.0.0.1:{echo.getsockname()[1]}") as relay:
            host, port = relay.address.split(":")
            with socket.create_connection((host, int(port)), timeout=30) as near:
                near.sendall(b"12345")
                got = b""
                while block := near.recv(100):
                    got += block
        assert got == b"1234512345"
        assert relay.count == 15
