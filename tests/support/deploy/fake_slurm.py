"""A FAKE Slurm of this one machine, for the scripts in deploy/slurm: sbatch runs a job at once.

Run as a program it is sbatch, srun or scontrol; `install` puts these into a folder for the PATH.
Jobs have two nodes at most, 127.0.0.1 and localhost. Like Slurm it sets variables for what was
asked for only, and starts no job whose dependency `afterok` has failed. It has no queue, no limits,
and no nodes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

NODES = ("127.0.0.1", "localhost")
FLAGS = {"--parsable", "--requeue", "--exclusive"}  # options of sbatch without a value


def install(folder: Path) -> dict[str, str]:
    """Variables with which the fake is found; jobs leave their logs and status in folder/jobs."""
    tools, jobs = folder / "slurm", folder / "jobs"
    tools.mkdir()
    jobs.mkdir()
    for name in ("sbatch", "srun", "scontrol"):
        file = tools / name
        file.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" {name} "$@"\n')
        file.chmod(0o755)
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    first = 100_000 + os.getpid() % 100_000  # ports and folders follow from a job's number
    return {"PATH": path, "FAKE_SLURM": str(jobs), "FAKE_SLURM_FIRST_JOB": str(first)}


def parsed(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """Options, and what follows them."""
    options, rest = {}, list(words)
    while rest and rest[0].startswith("--"):
        name, given, value = rest.pop(0).partition("=")
        options[name] = value if given or name in FLAGS else rest.pop(0)
    return options, rest


def directives(script: Path) -> dict[str, str]:
    """The options in a script's #SBATCH lines."""
    lines = [line.split("#SBATCH ", 1)[1] for line in _directive_lines(script)]
    return parsed([word for line in lines for word in line.split()])[0]


def _directive_lines(script: Path) -> Iterator[str]:
    return (s for s in script.read_text(encoding="utf-8").splitlines() if s.startswith("#SBATCH "))


def sbatch(words: list[str]) -> None:
    """Run the job to its end and print its number."""
    options, rest = parsed(words)
    jobs = Path(os.environ["FAKE_SLURM"])
    number = int(os.environ["FAKE_SLURM_FIRST_JOB"]) + len(list(jobs.glob("*.status")))
    kind, _, before = options.get("--dependency", "").partition(":")
    if kind == "afterok" and (jobs / f"{before}.status").read_text() != "0":
        status = "never started"
    else:
        if rest:
            options = directives(Path(rest[0])) | options
        command = ["bash", *rest] if rest else ["sh", "-c", options["--wrap"]]
        status = str(_run(command, options, number, jobs))
    (jobs / f"{number}.status").write_text(status)
    print(number if "--parsable" in options else f"Submitted batch job {number}")


def _run(command: list[str], options: Mapping[str, str], number: int, jobs: Path) -> int:
    """The largest exit status of the tasks, which run beside each other."""
    tasks: list[int | None] = [None]
    if "--array" in options:
        tasks = list(range(int(options["--array"].removeprefix("0-")) + 1))
    running = []
    for place, task in enumerate(tasks):
        with (jobs / f"{number}_{place}.log").open("w") as log:
            environment = _variables(options, number * 10 + place, task)
            running.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))
    return max(process.wait() for process in running)


def _variables(options: Mapping[str, str], number: int, task: int | None) -> dict[str, str]:
    nodes = NODES[: int(options.get("--nodes", "1"))]
    found = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    found |= {
        "SLURM_JOB_ID": str(number),
        "SLURM_JOB_NUM_NODES": str(len(nodes)),
        "SLURM_JOB_NODELIST": ",".join(nodes),
    }
    if task is not None:
        found["SLURM_ARRAY_TASK_ID"] = str(task)
    if "--gpus-per-node" in options:
        found["SLURM_GPUS_ON_NODE"] = options["--gpus-per-node"]
    if "--cpus-per-task" in options:
        found["SLURM_CPUS_PER_TASK"] = options["--cpus-per-task"]
    return found


def srun(words: list[str]) -> None:
    """Run the command here, once for each node of the job or on the one that is named."""
    options, command = parsed(words)
    if "--nodelist" in options:
        assert options["--nodelist"] in NODES, options
        os.execvp(command[0], command)
    nodes = range(int(os.environ["SLURM_JOB_NUM_NODES"]))
    running = [
        subprocess.Popen(command, env=os.environ | {"SLURM_NODEID": str(node)}) for node in nodes
    ]
    sys.exit(max(process.wait() for process in running))


def scontrol(words: list[str]) -> None:
    """`scontrol show hostnames LIST`."""
    assert words[:2] == ["show", "hostnames"], words
    print("\n".join(words[2].split(",")))


if __name__ == "__main__":
    {"sbatch": sbatch, "srun": srun, "scontrol": scontrol}[sys.argv[1]](sys.argv[2:])
