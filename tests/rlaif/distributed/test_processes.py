"""ProcessGroup: the identity for one process, shards that add up, and refused launch settings.

With two real processes: tests/integration/rlaif/test_distributed.py.
"""

from __future__ import annotations

import pytest
import torch

from rlaif.distributed import processes
from rlaif.distributed.processes import ProcessGroup, ProcessGroupError


def test_for_one_process_every_method_is_the_identity():
    alone = ProcessGroup.current()
    assert alone == ProcessGroup(rank=0, count=1)
    assert alone.is_main
    assert alone.shard("abc") == ["a", "b", "c"]
    assert alone.gather([1, 2]) == [1, 2]
    assert alone.all_reduce({"loss": 0.1}) == {"loss": 0.1}
    assert alone.max(3.0) == 3.0
    used, unused = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(2))
    used.grad = torch.ones(2)
    alone.all_reduce_gradients([used, unused])
    assert used.grad.tolist() == [1.0, 1.0]
    assert unused.grad is None
    alone.barrier()
    alone.leave()


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("size", [0, 1, 5, 6])
def test_shards_cover_the_items_once_and_gather_restores_their_order(count, size, monkeypatch):
    whole = list(range(size))
    shards = [ProcessGroup(rank, count).shard(whole) for rank in range(count)]
    assert sorted(item for shard in shards for item in shard) == whole
    monkeypatch.setattr("accelerate.utils.gather_object", lambda _: shards)
    if count > 1:
        assert ProcessGroup(0, count).gather(shards[0]) == whole


def test_a_bucket_has_one_dtype_and_a_bounded_size(monkeypatch):
    monkeypatch.setattr(processes, "BUCKET_NUMEL", 6)
    sizes = [3, 3, 3, 9, 1]
    parameters = [torch.zeros(n) for n in sizes] + [torch.zeros(1, dtype=torch.float64)]
    buckets = list(processes._buckets(parameters))
    assert [[p.numel() for p in bucket] for bucket in buckets] == [[3, 3], [3], [9], [1], [1]]
    assert all(len({p.dtype for p in bucket}) == 1 for bucket in buckets)


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("ACCELERATE_USE_DEEPSPEED", "true", "--multi_gpu"),
        ("ACCELERATE_MIXED_PRECISION", "bf16", "dtype=bfloat16"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "micro_batch_tokens"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "--dynamo_backend no"),
    ],
)
def test_a_launch_setting_that_would_have_no_effect_is_refused(name, value, remedy, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(ProcessGroupError, match=f"{name}=.* has no effect here; .*{remedy}"):
        ProcessGroup.current()


def test_the_variables_that_accelerate_always_sets_are_accepted(monkeypatch):
    for name, value in {
        "ACCELERATE_USE_CPU": "False", "ACCELERATE_MIXED_PRECISION": "no",
        "ACCELERATE_DYNAMO_BACKEND": "NO",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert ProcessGroup.current().count == 1


def test_a_launch_of_several_processes_that_started_one_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(ProcessGroupError, match="asked for several processes and started one"):
        ProcessGroup.current()
