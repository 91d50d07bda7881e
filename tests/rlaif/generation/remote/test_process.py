from rlaif.generation.remote.process import device_of, worker_environment


def test_a_worker_does_not_inherit_the_trainers_launch():
    base = {"RANK": "1", "WORLD_SIZE": "2", "ACCELERATE_USE_FSDP": "true", "HF_HOME": "/cache"}
    found = worker_environment(base, 3, None)
    assert found["HF_HOME"] == "/cache"
    assert found["OMP_NUM_THREADS"] == "3"
    assert not {"RANK", "WORLD_SIZE", "ACCELERATE_USE_FSDP", "CUDA_VISIBLE_DEVICES"} & found.keys()
    assert worker_environment({"OMP_NUM_THREADS": "8"}, 3, None)["OMP_NUM_THREADS"] == "8"
    assert worker_environment({}, 3, "5")["CUDA_VISIBLE_DEVICES"] == "5"


def test_workers_take_the_gpus_that_the_trainer_leaves_free():
    visible = [str(n) for n in range(4, 12)]
    two_trainers = [
        device_of(place, 3, (rank, 2), visible) for rank in range(2) for place in range(3)
    ]
    assert two_trainers == ["6", "7", "8", "9", "10", "11"]
    assert device_of(0, 1, (0, 1), ["0"]) == "0"  # one GPU: shared with the trainer
    assert device_of(0, 1, (0, 1), []) is None
