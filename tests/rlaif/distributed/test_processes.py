"""ProcessGroup: alone nothing changes; shares put together are the whole; refusals at launch.

Two real processes: tests/integration/rlaif/test_distributed.py.
"""

from __future__ import annotations

import pytest
import torch

from rlaif.distributed import processes as workers
from rlaif.distributed.processes import ProcessGroup, ProcessGroupError


def test_alone_everything_is_the_identity():
    alone = ProcessGroup.current()
    assert alone == ProcessGroup(rank=0, count=1)
    assert alone.is_main
    assert alone.shard("abc") == ["a", "b", "c"]
    assert alone.gather([1, 2]) == [1, 2]
    assert alone.sum({"loss": 0.1}) == {"loss": 0.1}
    assert alone.max(3.0) == 3.0
    used, unused = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(2))
    used.grad = torch.ones(2)
    alone.add_gradients([used, unused])
    assert used.grad.tolist() == [1.0, 1.0]
    assert unused.grad is None
    alone.wait()
    alone.leave()


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("size", [0, 1, 5, 6])
def test_the_shares_are_all_of_it_and_gathered_in_its_order(count, size, monkeypatch):
    whole = list(range(size))
    shares = [ProcessGroup(rank, count).shard(whole) for rank in range(count)]
    assert sorted(item for share in shares for item in share) == whole
    monkeypatch.setattr("accelerate.utils.gather_object", lambda _: shares)
    if count > 1:
        assert ProcessGroup(0, count).gather(shares[0]) == whole


def test_buckets_are_of_one_kind_and_bounded(monkeypatch):
    monkeypatch.setattr(workers, "BUCKET", 6)
    sizes = [3, 3, 3, 9, 1]
    parameters = [torch.zeros(n) for n in sizes] + [torch.zeros(1, dtype=torch.float64)]
    found = list(workers._buckets(parameters))
    assert [[p.numel() for p in bucket] for bucket in found] == [[3, 3], [3], [9], [1], [1]]
    assert all(len({p.dtype for p in bucket}) == 1 for bucket in found)


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("ACCELERATE_USE_DEEPSPEED", "true", "--multi_gpu"),
        ("ACCELERATE_MIXED_PRECISION", "bf16", "dtype=bfloat16"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "micro_batch_tokens"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "--dynamo_backend no"),
    ],
)
def test_a_launch_setting_that_would_do_nothing_is_refused(name, value, remedy, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(ProcessGroupError, match=f"{name}=.* has no effect here: .*{remedy}"):
        ProcessGroup.current()


def test_what_accelerate_says_to_every_process_is_accepted(monkeypatch):
    for name, value in {
        "ACCELERATE_USE_CPU": "False", "ACCELERATE_MIXED_PRECISION": "no",
        "ACCELERATE_DYNAMO_BACKEND": "NO",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert ProcessGroup.current().count == 1


def test_several_processes_asked_for_and_one_started_is_told(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(ProcessGroupError, match="asked for several processes and started one"):
        ProcessGroup.current()
