from __future__ import annotations

import threading

import pytest

from rlaif.generation.base import SamplingError
from rlaif.generation.remote.pool import TRIES, WorkerPool
from rlaif.generation.remote.protocol import DeadWorkerError
from tests.support.rollouts.rollout_workers import ScriptedWorker


def doubled(request):
    return {"twice": 2 * request["n"]}


def dead(request):
    raise DeadWorkerError("ended by the test")


def opened(*workers):
    pool = WorkerPool(list(workers))
    pool.open()
    return pool


def asked(pool, count):
    answers = pool.map([{"n": n} for n in range(count)], [f"part {n}" for n in range(count)])
    return [answered.answer["twice"] for answered in answers]


def test_answers_come_in_the_order_of_the_requests_whoever_gave_them():
    pool = opened(ScriptedWorker(doubled), ScriptedWorker(doubled))
    assert asked(pool, 7) == [0, 2, 4, 6, 8, 10, 12]
    assert sum(len(worker.asked) for worker in pool.workers) == 7


def test_no_requests_are_no_answers():
    assert asked(opened(ScriptedWorker(doubled)), 0) == []


def test_a_part_whose_worker_died_is_answered_by_another_and_the_worker_started_again(capsys):
    first = threading.Event()

    def dies_once(request):
        if not first.is_set():
            first.set()
            raise DeadWorkerError("ended by the test")
        return doubled(request)

    pool = opened(ScriptedWorker(dies_once), ScriptedWorker(dies_once))
    assert asked(pool, 2) == [0, 2]
    assert pool.restarts == 1
    assert sorted(worker.starts for worker in pool.workers) == [1, 2]
    assert "ended by the test; started again (1 in this run)" in capsys.readouterr().err


def test_requests_that_end_every_worker_are_an_error_that_names_them():
    def poisoned(request):
        if request["n"] == 1:
            raise DeadWorkerError("ended by the test")
        return doubled(request)

    pool = opened(ScriptedWorker(poisoned), ScriptedWorker(poisoned))
    with pytest.raises(SamplingError, match=f"part 1 ended {TRIES} rollout workers.*remove these"):
        asked(pool, 2)
    assert sum(request["n"] == 1 for worker in pool.workers for request in worker.asked) == TRIES


def test_a_worker_that_cannot_be_started_again_is_given_up_and_the_others_go_on():
    died = threading.Event()

    class Lost(ScriptedWorker):
        def start(self):
            self.starts += 1
            if self.starts > 1:
                raise DeadWorkerError("no memory")
            return True

    def dies(request):
        died.set()
        raise DeadWorkerError("ended by the test")

    def answers_once_the_other_died(request):
        died.wait(60)
        return doubled(request)

    lost = Lost(dies)
    assert asked(opened(lost, ScriptedWorker(answers_once_the_other_died)), 3) == [0, 2, 4]
    assert lost.starts == 1 + TRIES


def test_without_any_worker_left_it_is_an_error():
    pool = opened(ScriptedWorker(dead))
    pool.heals = False
    with pytest.raises(SamplingError, match=r"no rollout worker is left.*part 0; part 1"):
        asked(pool, 2)


def test_what_a_worker_reports_itself_is_raised_and_not_tried_again():
    def refuses(request):
        raise SamplingError("unknown file")

    pool = opened(ScriptedWorker(refuses), ScriptedWorker(refuses))
    with pytest.raises(SamplingError, match="unknown file"):
        asked(pool, 2)
    assert pool.restarts == 0


def test_a_worker_that_cannot_start_is_named_and_none_is_left_running():
    class Broken(ScriptedWorker):
        def start(self):
            raise SamplingError("no such model")

    workers = [ScriptedWorker(doubled), Broken(doubled)]
    with pytest.raises(SamplingError, match="rollout worker 1 could not start: no such model"):
        WorkerPool(workers).open()
    assert all(worker.stopped for worker in workers)


def test_a_pool_that_is_closed_starts_no_worker_again():
    pool = opened(ScriptedWorker(dead))
    pool.close()
    with pytest.raises(SamplingError, match="no rollout worker is left"):
        asked(pool, 1)
    assert pool.workers[0].starts == 1


def test_revive_starts_those_that_do_not_answer():
    alive = ScriptedWorker(lambda request: {})
    gone = ScriptedWorker(dead)
    pool = opened(alive, gone)
    assert pool.revive() == [1]
    assert (alive.starts, gone.starts) == (1, 2)
