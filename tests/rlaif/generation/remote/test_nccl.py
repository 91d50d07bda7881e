"""The calls of vLLM's transfer, in order, against FAKE workers and a fake group: without a GPU."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from rlaif.generation.base import SamplingError
from rlaif.generation.remote.nccl import NcclSender, Receiver
from rlaif.generation.remote.pool import WorkerPool
from rlaif.generation.remote.protocol import DeadWorkerError
from tests.support.rollouts.rollout_workers import ScriptedWorker


class FakeGroup:
    """As vLLM's NCCLTrainerWeightTransferEngine calls its client; the broadcast meets the workers'
    update_weights, or hangs."""

    def __init__(self, client, source, size, met):
        self.client, self.size, self._met = client, size, met
        self.left = False
        info = {"master_address": "127.0.0.1", "rank_offset": 1, "world_size": size}
        client.init_weight_transfer_engine(info)

    def send_weights(self):
        self.client.start_weight_update()
        with ThreadPoolExecutor(1) as beside:
            update = beside.submit(self.client.update_weights, {"names": ["w"]})
            self._met.wait(60)  # the broadcast
            update.result()
        self.client.finish_weight_update()

    def shutdown(self):
        self.left = True


@pytest.fixture
def transfer():
    """(sender, workers, groups made, the places that are dead)."""
    met = threading.Barrier(3)  # the trainer and two workers
    dead: set[int] = set()
    groups: list[FakeGroup] = []

    class Member(ScriptedWorker):
        def __init__(self, place):
            super().__init__(self.answer)
            self.place = place

        def start(self):
            dead.discard(self.place)
            return super().start()

        def answer(self, request):
            if self.place in dead:
                raise DeadWorkerError("ended by the test")
            if request["do"] == "update_weights":
                met.wait(60)
            return {}

    def join(client, source, size):
        groups.append(FakeGroup(client, source, size, met))
        return groups[-1]

    pool = WorkerPool([Member(0), Member(1)])
    pool.open()
    return NcclSender(None, pool, join), pool.workers, groups, dead


def calls(worker):
    return [request["do"] for request in worker.asked if request["do"] != "look"]


UPDATE = ["start_weight_update", "update_weights", "finish_weight_update"]


def test_a_group_is_joined_once_and_every_sync_is_start_update_finish(transfer):
    sender, workers, groups, _ = transfer
    sender.send(1)
    sender.send(2)
    for place, worker in enumerate(workers):
        assert calls(worker) == ["init_weight_transfer_engine", *UPDATE, *UPDATE]
        joined = next(r for r in worker.asked if r["do"] == "init_weight_transfer_engine")
        assert joined["info"]["rank_offset"] == 1 + place
        finished = [r["version"] for r in worker.asked if r["do"] == "finish_weight_update"]
        assert finished == [1, 2]
    assert [group.size for group in groups] == [3]


def test_after_a_death_all_join_a_new_group(transfer):
    sender, workers, groups, dead = transfer
    sender.send(1)
    dead.add(0)
    sender.send(2)
    assert calls(workers[1]) == [
        "init_weight_transfer_engine", *UPDATE, "shutdown_weight_transfer_engine",
        "init_weight_transfer_engine", *UPDATE,
    ]  # fmt: skip
    assert workers[0].starts == 2
    assert [group.left for group in groups] == [True, False]
    sender.close()
    assert groups[1].left


def test_a_worker_that_died_waits_for_the_next_weights(transfer):
    sender, workers, _, dead = transfer
    sender.send(1)
    dead.add(0)
    pool = sender._pool
    answers = pool.map([{"do": "draw", "n": n} for n in range(3)], ["a", "b", "c"])
    assert {answered.worker for answered in answers} == {1}
    assert workers[0].starts == 1


class FakeLLM:
    """Keeps the calls that vLLM's LLM gets."""

    def __init__(self, empties=True):
        self.calls, self._empties = [], empties

    def __getattr__(self, name):
        def call(*args):
            self.calls.append((name, *args))
            return self._empties

        return call


def receiver(llm):
    made = object.__new__(Receiver)  # without a GPU its engine cannot start
    made.sampler = type("Engine", (), {"llm": llm})()
    return made


def test_a_worker_passes_the_calls_to_vllm_and_empties_its_prefix_cache():
    llm = FakeLLM()
    worker = receiver(llm)
    worker.take({"do": "init_weight_transfer_engine", "info": {"rank_offset": 2}})
    worker.take({"do": "start_weight_update"})
    worker.take({"do": "update_weights", "info": {"names": ["w"]}})
    worker.take({"do": "finish_weight_update", "version": 4})
    assert llm.calls == [
        ("init_weight_transfer_engine", {"init_info": {"rank_offset": 2}}),
        ("start_weight_update",),
        ("update_weights", {"update_info": {"names": ["w"]}}),
        ("finish_weight_update",),
        ("reset_prefix_cache",),
    ]


def test_what_vllm_has_no_call_for_and_a_kept_cache_are_errors():
    with pytest.raises(SamplingError, match="unknown request to a rollout worker: 'exec'"):
        receiver(FakeLLM()).take({"do": "exec"})
    with pytest.raises(SamplingError, match="kept its prefix cache"):
        receiver(FakeLLM(empties=False)).take({"do": "finish_weight_update"})
