"""The scripts in deploy/slurm: shell, directives, and every command line that they come to.

Here they run under a FAKE Slurm (tests/support/deploy/fake_slurm.py) with recorders in place of
`rlaif`, `ray` and `accelerate`; tests/integration/deploy/test_slurm_jobs.py runs the real ones.
None of them has been run by a real Slurm.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from tests.support.deploy import fake_slurm
from tests.support.deploy.command_lines import mistake

ROOT = Path(__file__).resolve().parents[2]
SLURM = ROOT / "deploy" / "slurm"
SCRIPTS = sorted(SLURM.iterdir())

KNOWN = {
    "--job-name": r"[\w-]+",
    "--nodes": r"\d+",
    "--ntasks": r"\d+",
    "--ntasks-per-node": r"\d+",
    "--cpus-per-task": r"\d+",
    "--gpus-per-node": r"\d+",
    "--mem": r"\d+G|0",  # 0: all of a node
    "--time": r"\d\d:\d\d:\d\d",
    "--output": r"\S*%[jA]\S*",
    "--open-mode": "append",
    "--array": r"0-\d+",
    "--dependency": r"after(ok|any):\d+",
    "--requeue": "",
    "--exclusive": "",
    "--parsable": "",
    "--wrap": ".+",
}
"""Options of sbatch (its manual, Slurm 24.05) → their values as we write them."""

RECORDER = """#!/bin/bash
call=$(printf '%s\\n' "${0##*/}" "$@")
printf '%s\\n\\n' "$call" >>"$CALLS"
case "${0##*/} ${1:-}" in
"rlaif serve") exec sleep 600 ;;
"ray start") exec sleep 600 ;;
"rlaif label") until (($(grep -cx start "$CALLS") >= ${NODES:-0})); do sleep 0.1; done ;;
esac
"""


class Cluster:
    """The fake Slurm, in whose jobs three programs only write down how they are called."""

    def __init__(self, folder: Path) -> None:
        self.environment = fake_slurm.install(folder)
        self.calls_file = folder / "calls"
        self.calls_file.touch()
        self.environment["CALLS"] = str(self.calls_file)
        self.jobs = folder / "jobs"
        for name in ("rlaif", "ray", "accelerate"):
            self.replace(name, RECORDER)

    def replace(self, name: str, text: str) -> None:
        program = self.jobs.with_name("slurm") / name
        program.write_text(text)
        program.chmod(0o755)

    def run(self, *command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            list(map(str, command)),
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    def calls(self, program: str) -> list[list[str]]:
        """The argument lists of a program's calls, in the order of their text."""
        calls = [block.splitlines() for block in self.calls_file.read_text().split("\n\n")]
        return sorted(call for call in calls if call[:1] == [program])

    def statuses(self) -> list[str]:
        return [file.read_text() for file in sorted(self.jobs.glob("*.status"))]


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def value(call: Sequence[str], option: str) -> str:
    return call[list(call).index(option) + 1]


# ── the text ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_bash_can_parse_the_script_and_it_stops_at_an_error(script: Path) -> None:
    checked = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    text = script.read_text(encoding="utf-8")
    assert text.startswith("#!/bin/bash\n# ")
    assert "\nset -euo pipefail\n" in text
    assert script.stat().st_mode & 0o111


def test_shellcheck_finds_nothing() -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    found = subprocess.run(
        [shellcheck, "--severity=warning", *SCRIPTS], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.parametrize(
    "script", [path for path in SCRIPTS if path.suffix == ".sbatch"], ids=lambda path: path.name
)
def test_directives_are_known_and_stand_before_the_first_command(script: Path) -> None:
    lines = script.read_text(encoding="utf-8").splitlines()
    first = next(n for n, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first:])  # Slurm ignores those
    found = fake_slurm.directives(script)
    assert {"--job-name", "--time", "--mem", "--cpus-per-task", "--requeue"} <= found.keys()
    assert unknown(found) == {}


def unknown(options: dict[str, str]) -> dict[str, str]:
    """The options that sbatch does not have, or whose value is not one of ours."""
    return {
        name: given
        for name, given in options.items()
        if name not in KNOWN or not re.fullmatch(KNOWN[name], given)
    }


def test_an_unknown_directive_is_found(tmp_path: Path) -> None:
    script = tmp_path / "job"
    script.write_text("#!/bin/bash\n#SBATCH --nodes=two\n#SBATCH --gpu=1 --mem=64G\n")
    assert unknown(fake_slurm.directives(script)) == {"--nodes": "two", "--gpu": "1"}


# ── labels by an array ───────────────────────────────────────────────────────────────────────


def test_an_array_labels_every_part_by_a_judge_on_its_own_port(
    cluster: Cluster, tmp_path: Path
) -> None:
    done = cluster.run(
        SLURM / "submit-labels.sh",
        SAMPLES="s.jsonl", OUT=str(tmp_path / "out"), JUDGE="/m/judge", TASKS="3",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert cluster.statuses() == ["0", "0", "0"]
    calls = cluster.calls("rlaif")
    assert [mistake(call) for call in calls] == [""] * 8
    labels = [call for call in calls if call[1] == "label"]
    assert [value(call, "--part") for call in labels] == ["0/3", "1/3", "2/3"]
    servers = [call for call in calls if call[1] == "serve"]
    ports = {f"127.0.0.1:{value(call, '--port')}" for call in servers}
    assert len(ports) == 3
    assert {value(call, "--server") for call in labels} == ports
    assert [call[1:3] for call in calls if call[1] == "shards"] == [
        ["shards", "split"], ["shards", "status"],
    ]  # fmt: skip


def test_an_array_with_servers_starts_none_and_asks_for_no_gpu(
    cluster: Cluster, tmp_path: Path
) -> None:
    cluster.replace("sbatch", '#!/bin/bash\necho "$@" >>"$OUT/submitted"\necho "7;cluster"\n')
    submitted = {"SAMPLES": "s.jsonl", "OUT": str(tmp_path), "SERVERS": "a:1,b:1", "TASKS": "2"}
    assert cluster.run(SLURM / "submit-labels.sh", **submitted).returncode == 0
    written = (tmp_path / "submitted").read_text()
    assert "--gpus-per-node" not in written
    assert "--dependency=afterok:7 " in written
    assert "--dependency=afterany:7 " in written
    task = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_JOB_ID": "8", "CONSTITUTION": "hhh"}
    assert cluster.run(SLURM / "label-array.sbatch", **submitted, **task).returncode == 0
    (call,) = cluster.calls("rlaif")
    assert mistake(call) == ""
    assert (value(call, "--server"), value(call, "--part")) == ("a:1,b:1", "1/2")


def test_a_task_whose_server_fails_fails_at_once_and_leaves_nothing(
    cluster: Cluster, tmp_path: Path
) -> None:
    """The label command, which would wait for an hour, is ended with it."""
    cluster.replace("rlaif", "#!/bin/bash\n[[ $1 == serve ]] && exit 3\nexec sleep 600\n")
    task = {
        "OUT": str(tmp_path), "SERVERS": "", "JUDGE": "m", "CONSTITUTION": "hhh", "GPUS": "1",
        "TASKS": "1", "SLURM_ARRAY_TASK_ID": "0", "SLURM_JOB_ID": "8", "TMPDIR": str(tmp_path),
    }  # fmt: skip
    before = set(tmp_path.iterdir())
    assert cluster.run(SLURM / "label-array.sbatch", **task).returncode == 3
    assert set(tmp_path.iterdir()) == before


def test_labels_do_not_start_where_the_split_failed(cluster: Cluster, tmp_path: Path) -> None:
    cluster.replace("rlaif", "#!/bin/bash\n[[ $1 != shards ]]\n")
    submitted = {"SAMPLES": "s.jsonl", "OUT": str(tmp_path), "JUDGE": "m"}
    assert cluster.run(SLURM / "submit-labels.sh", **submitted).returncode == 0
    assert cluster.statuses()[:2] == ["1", "never started"]


@pytest.mark.parametrize("missing", ["SAMPLES", "OUT", "JUDGE"])
def test_what_is_missing_is_named_before_anything_is_submitted(
    missing: str, cluster: Cluster, tmp_path: Path
) -> None:
    given = {"SAMPLES": "s.jsonl", "OUT": str(tmp_path), "JUDGE": "m", missing: ""}
    done = cluster.run(SLURM / "submit-labels.sh", **given)
    assert done.returncode == 1
    assert f"{missing}: give" in done.stderr
    assert cluster.statuses() == []


# ── Ray and training inside an allocation ────────────────────────────────────────────────────


def test_ray_starts_on_every_node_and_labels_with_as_many_judges_as_fit(cluster: Cluster) -> None:
    pytest.importorskip("ray")
    from ray.scripts.scripts import start

    done = cluster.run(
        "sbatch", "--nodes=2", "--gpus-per-node=9", SLURM / "label-ray.sbatch",
        OUT="/shared", JUDGE="m", GPUS="4", NODES="2",
    )  # fmt: skip
    log = next(cluster.jobs.glob("*.log")).read_text()
    assert (done.returncode, cluster.statuses()) == (0, ["0"]), log
    head, worker = (call[2:] for call in cluster.calls("ray") if call[1] == "start")
    for flags in (head, worker):
        start.make_context("start", list(flags))
        assert {"--num-gpus=9", "--num-cpus=32", "--block"} <= set(flags)
    head, worker = sorted((head, worker), key=lambda flags: "--head" not in flags)
    (ip,) = (flag.partition("=")[2] for flag in head if flag.startswith("--node-ip-address="))
    (port,) = (flag.partition("=")[2] for flag in head if flag.startswith("--port="))
    assert f"--address={ip}:{port}" in worker
    label, status = cluster.calls("rlaif")
    assert [mistake(call) for call in (label, status)] == ["", ""]
    assert value(label, "--ray") == f"{ip}:{port}"
    assert (value(label, "--gpus"), value(label, "--workers")) == ("4", "4")  # 2 on each node


def test_a_head_of_ray_that_does_not_start_ends_the_job(cluster: Cluster) -> None:
    cluster.replace("ray", "#!/bin/bash\nexit 1\n")
    given = {"OUT": "/shared", "JUDGE": "m"}
    cluster.run("sbatch", "--nodes=2", "--gpus-per-node=1", SLURM / "label-ray.sbatch", **given)
    assert cluster.statuses() == ["1"]
    assert "Ray did not start on" in next(cluster.jobs.glob("*.log")).read_text()
    assert cluster.calls("rlaif") == []


@pytest.mark.parametrize("launch", ["", "--use_fsdp --fsdp_version 2"])
def test_training_is_launched_on_every_node_with_its_own_rank(
    launch: str, cluster: Cluster
) -> None:
    done = cluster.run(
        "sbatch", "--nodes=2", "--gpus-per-node=8", SLURM / "train.sbatch",
        "dpo", "labels", "--model", "m", "--out", "o", "beta=0.2", LAUNCH=launch,
    )  # fmt: skip
    assert (done.returncode, cluster.statuses()) == (0, ["0"])
    calls = cluster.calls("accelerate")
    assert [mistake(call) for call in calls] == ["", ""]
    assert [value(call, "--machine_rank") for call in calls] == ["0", "1"]
    for call in calls:
        assert (value(call, "--num_machines"), value(call, "--num_processes")) == ("2", "16")
        assert ("--use_fsdp" in call, "--multi_gpu" in call) == (bool(launch), not launch)
        assert call[-9:] == [
            "rlaif",
            "train",
            "dpo",
            "labels",
            "--model",
            "m",
            "--out",
            "o",
            "beta=0.2",
        ]


def test_accelerate_reads_the_configuration_for_fsdp() -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    file = ROOT / "deploy" / "fsdp.yaml"
    config = load_config_from_file(str(file))
    written = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert config.num_processes == 4
    assert config.fsdp_config == written["fsdp_config"]
    assert config.fsdp_config["fsdp_version"] == 2
