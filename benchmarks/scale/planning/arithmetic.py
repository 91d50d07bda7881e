"""Hours, hosts and disk for a number of pairs, from costs a pair and assumed rates. Pure.

The stages of N pairs run one after another; each takes the hours of its slowest resource:

    split    1 process                 N * cpu
    sample   GPUs                      N * 2 * response tokens / tokens a second
             1 driver per GPU          N * cpu
    label    GPUs                      N * reads / reads a second
             servers, labelers         N * cpu        each computes in one thread
             host cores                N * (cpu of both)
             fsync                     N / 256 * seconds, one journal per labeler
             network                   N * bytes of RPCs
    read     1 process per command     N * cpu        stats, verify and export, at the same time
    prepare  processes                 N * cpu
    train    GPUs                      N * tokens / tokens a second

Divided by hosts, except where it says 1 process. A cost is a line through two measured sizes; what
starting costs, once a command, is left out here. Left out, too: loading models, failures, idle GPUs
at the end of a shard or while others' slowest responses end, communication in training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

RESPONSES = 2  # of a pair
_HOUR = 3600.0
_DOUBLED = [1 << n for n in range(21)]  # hosts that are tried first


@dataclass(frozen=True, slots=True)
class CostLine:
    """What a number of rows costs: fixed + each * rows."""

    fixed: float
    each: float

    @classmethod
    def through(cls, few: tuple[int, float], many: tuple[int, float]) -> CostLine:
        """The line through the costs of two numbers of rows.

        >>> CostLine.through((100, 3.0), (300, 5.0))
        CostLine(fixed=2.0, each=0.01)
        """
        each = (many[1] - few[1]) / (many[0] - few[0])
        return cls(few[1] - each * few[0], each)

    def at(self, rows: int) -> float:
        """The cost of this number of rows."""
        return self.fixed + self.each * rows


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What is not measured here. Rates are of one GPU, a second."""

    hosts: int = 8
    gpus_per_host: int = 8
    cores_per_host: int = 64
    processes_per_host: int = 8  # labelers, later preparers
    gpus_per_judge: int = 4
    reads_rate: float = 20.0
    sampler_rate: float = 2000.0  # tokens
    training_rate: float = 4000.0  # tokens
    response_tokens: float = 100.0
    epochs: float = 1.0
    network_gbit: float = 10.0  # of a host
    within_hours: float = 24.0


@dataclass(frozen=True, slots=True)
class PairCosts:
    """What a pair costs, measured. cpu: seconds by command; size: bytes by what they are of.

    tokens: of both sides in a corpus. reads: of a label. fsync_s: seconds of one fsync, which
    serves fsync_entries labels where the disk is what limits.
    """

    cpu: Mapping[str, float]
    size: Mapping[str, float]
    tokens: float
    reads: float
    fsync_s: float
    fsync_entries: int
    shard_rows: int


@dataclass(frozen=True, slots=True)
class ResourceHours:
    """How long a resource is busy in a stage. scales: more hosts have more of it."""

    stage: str
    resource: str
    hours: float
    scales: bool = True


@dataclass(frozen=True, slots=True)
class PairsPlan:
    """stages: the slowest resource of each. hosts: the fewest that end within the hours; None where
    a single process alone takes longer."""

    pairs: int
    stages: tuple[ResourceHours, ...]
    hours: float
    bottleneck: ResourceHours
    disk: Mapping[str, float]
    hosts: int | None


def plan(pairs: int, costs: PairCosts, given: Assumptions) -> PairsPlan:
    """The plan for a number of pairs."""
    resources = resource_hours(pairs, costs, given)
    stages = slowest(resources)
    return PairsPlan(
        pairs,
        stages,
        sum(stage.hours for stage in stages),
        max(stages, key=lambda stage: stage.hours),
        disk_bytes(pairs, costs, given),
        hosts_within(resources, given.hosts, given.within_hours),
    )


def resource_hours(pairs: int, costs: PairCosts, given: Assumptions) -> list[ResourceHours]:
    """Every resource of every stage, by the equations above."""
    cpu, gpus = costs.cpu, given.hosts * given.gpus_per_host
    processes = given.hosts * given.processes_per_host
    cores = given.hosts * given.cores_per_host
    servers = gpus / given.gpus_per_judge
    sampled, trained = RESPONSES * given.response_tokens, costs.tokens * given.epochs
    link = given.hosts * given.network_gbit * 1e9 / 8  # bytes a second
    both = cpu["label"] + cpu["server"]
    rows: list[tuple[str, str, float, bool]] = [
        ("split", "1 process", cpu["split"], False),
        ("sample", "GPUs", sampled / given.sampler_rate / gpus, True),
        ("sample", "drivers", cpu["sample"] / gpus, True),
        ("label", "GPUs", costs.reads / given.reads_rate / gpus, True),
        ("label", "servers", cpu["server"] / servers, True),
        ("label", "labelers", cpu["label"] / processes, True),
        ("label", "host cores", both / cores, True),
        ("label", "fsync", costs.fsync_s / costs.fsync_entries / processes, True),
        ("label", "network", costs.size["rpc"] / link, True),
        *(("read", f"1 {name}", cpu[name], False) for name in ("stats", "verify", "export")),
        ("prepare", "processes", cpu["prepare"] / processes, True),
        ("train", "GPUs", trained / given.training_rate / gpus, True),
    ]
    return [
        ResourceHours(stage, name, pairs * each / _HOUR, scales)
        for stage, name, each, scales in rows
    ]


def slowest(resources: Iterable[ResourceHours]) -> tuple[ResourceHours, ...]:
    """The slowest resource of each stage, in the stages' order."""
    found: dict[str, ResourceHours] = {}
    for one in resources:
        if one.stage not in found or one.hours > found[one.stage].hours:
            found[one.stage] = one
    return tuple(found.values())


def hosts_within(resources: Iterable[ResourceHours], hosts: int, within: float) -> int | None:
    """The fewest hosts with which all stages end within so many hours; None if none do.

    hosts: with which `resources` take their hours.
    """
    known = list(resources)

    def hours(count: int) -> float:
        by = [
            ResourceHours(r.stage, r.resource, r.hours * hosts / count if r.scales else r.hours)
            for r in known
        ]
        return sum(stage.hours for stage in slowest(by))

    enough = next((h for h in _DOUBLED if hours(h) <= within), None)
    if enough is None:
        return None
    least = enough // 2 + 1
    while least < enough:  # all under `least` are too few
        middle = (least + enough) // 2
        least, enough = (least, middle) if hours(middle) <= within else (middle + 1, enough)
    return enough


def disk_bytes(pairs: int, costs: PairCosts, given: Assumptions) -> dict[str, float]:
    """Bytes by what they are of. Journals are deleted with each shard: one shard per process."""
    kept = ("samples", "labels", "store", "export", "corpus")
    in_work = min(pairs, given.hosts * given.processes_per_host * costs.shard_rows)
    return {name: pairs * costs.size[name] for name in kept} | {
        "journals": in_work * costs.size["journal"]
    }
