from __future__ import annotations

import shutil
from contextlib import closing

import pytest

from rlaif.generation.base import Generated, SamplingError
from rlaif.generation.engines import open_sampler
from rlaif.generation.remote.opening import open_rollout_workers
from rlaif.generation.remote.pool import TRIES
from rlaif.generation.remote.protocol import drawn_answer, read_drawn
from rlaif.generation.remote.sampler import even_shares
from rlaif.models.backbone import Backbone
from rlaif.models.lora_config import LoraConfig
from tests.support.rollouts.rollout_workers import launcher
from tests.support.training.perturb import shaken

PROMPTS = [[1, 5, 6, 7, 8], [1], [4, 3], [1, 5, 6, 7, 8], [9, 9, 9]]
SEEDS = [11, 22, 33, 44, 55]


def policy(model, lora=LoraConfig(), dtype="float32"):  # noqa: B008
    made = Backbone.load(model, dtype, train_fully=lora is None)
    made.add_role("policy", lora, 0)
    if lora is not None:
        shaken(made, "policy")
    return made


def opened(backbone, folder, made, transport="adapter", lora=LoraConfig(), **lives):  # noqa: B008
    return closing(
        open_rollout_workers(
            "transformers", backbone, (64, 0.1), lora, workers=2, transport=transport,
            folder=folder / "rollouts", launch=launcher(made, **lives),
        )
    )  # fmt: skip


def drawn(sampler, temperature=1.0):
    return sampler.generate(PROMPTS, 8, temperature, SEEDS)


def ids_of(responses):
    return [(g.ids, g.complete) for g in responses]


def here(backbone, temperature=1.0):
    return drawn(open_sampler("transformers", backbone, 64, 0.1), temperature)


@pytest.mark.parametrize(
    ("transport", "lora", "dtype"),
    [
        ("adapter", LoraConfig(), "float32"),
        ("files", LoraConfig(), "float32"),
        ("files", None, "float32"),
        ("files", None, "bfloat16"),
        ("adapter", LoraConfig(rslora=True, rank=2), "bfloat16"),
    ],
)
def test_two_workers_draw_what_the_trainer_draws_after_every_sync(
    transport, lora, dtype, tiny_model, tmp_path
):
    backbone, made = policy(tiny_model, lora, dtype), []
    with opened(backbone, tmp_path, made, transport, lora) as sampler:
        assert sampler.exact == (dtype == "float32")
        for version in (1, 2):
            for parameter in backbone.role_parameters("policy").values():
                parameter.data *= 1.1
            sampler.sync()
            found, expected = drawn(sampler), here(backbone)
            assert {g.version for g in found} == {version}
            assert ids_of(found) == ids_of(expected)
            for one, other in zip(found, expected, strict=True):
                rounding = 1e-5 if dtype == "float32" else 0.02
                assert one.logprobs == pytest.approx(other.logprobs, abs=rounding)
    assert [len(worker.asked) for worker in made] == [2, 2]
    assert not (tmp_path / "rollouts").exists()


def test_a_worker_that_died_is_started_again_with_the_weights_of_the_others(tiny_model, tmp_path):
    backbone, made, deaths = policy(tiny_model), [], [1]

    def lives(place, request):
        return not (request["version"] == 2 and deaths and deaths.pop())

    with opened(backbone, tmp_path, made, lives=lives) as sampler:
        sampler.sync()
        drawn(sampler)
        shaken(backbone, "policy", seed=2)
        sampler.sync()
        assert ids_of(drawn(sampler)) == ids_of(here(backbone))
        assert sampler.restarts == 1
    assert sorted(worker.starts for worker in made) == [1, 2]
    assert (tmp_path / "rollouts").exists()  # with the log of the one that died


def test_a_prompt_that_ends_every_worker_ends_the_run_and_says_so(tiny_model, tmp_path):
    lives = lambda place, request: [4, 3] not in request["prompts"]  # noqa: E731
    with opened(policy(tiny_model), tmp_path, [], lives=lives) as sampler:
        sampler.sync()
        with pytest.raises(SamplingError, match=rf"ended {TRIES} rollout workers, one after"):
            drawn(sampler)


@pytest.mark.parametrize("transport", ["adapter", "files"])
def test_weights_that_did_not_arrive_are_found_by_the_logprobs(transport, tiny_model, tmp_path):
    """The file of version 2 holds the weights of version 1: the version is right, they are not."""
    backbone = policy(tiny_model)
    with opened(backbone, tmp_path, [], transport) as sampler:
        sampler.sync()
        drawn(sampler)
        assert sampler.largest_gap < 1e-5
        shaken(backbone, "policy", seed=2)
        sampler.sync()
        first, second = sorted((tmp_path / "rollouts").glob("weights-*.safetensors"))
        shutil.copy(first, second)
        with pytest.raises(
            SamplingError, match=rf"from those of version 2 .*rollout_weights={transport}"
        ):
            drawn(sampler)


def test_the_check_is_of_the_tempered_distribution(tiny_model, tmp_path):
    backbone = policy(tiny_model)
    with opened(backbone, tmp_path, []) as sampler:
        sampler.sync()
        assert ids_of(drawn(sampler, 0.6)) == ids_of(here(backbone, 0.6))
        assert 0 < sampler.largest_gap < 1e-5


def test_a_file_that_a_worker_cannot_read_is_an_error_that_names_it(tiny_model, tmp_path):
    with opened(policy(tiny_model), tmp_path, []) as sampler:
        sampler.sync()
        for path in (tmp_path / "rollouts").glob("weights-*.safetensors"):
            path.unlink()
        with pytest.raises(SamplingError, match=r"weights-000001.*must be one that"):
            drawn(sampler)


def test_only_the_two_newest_weights_stay(tiny_model, tmp_path):
    with opened(policy(tiny_model), tmp_path, []) as sampler:
        for _ in range(4):
            sampler.sync()
        kept = sorted(path.name for path in (tmp_path / "rollouts").iterdir())
    assert kept == ["weights-000003.safetensors", "weights-000004.safetensors"]


def test_what_an_earlier_run_left_is_deleted(tiny_model, tmp_path):
    old = tmp_path / "rollouts" / "weights-000009.safetensors"
    old.parent.mkdir()
    old.write_bytes(b"half a file")
    with opened(policy(tiny_model), tmp_path, []):
        assert not old.exists()


def test_an_answer_of_older_weights_is_refused():
    answer = drawn_answer([Generated([5, 2], [-0.5, -0.25], True)], version=3)
    assert read_drawn(answer, 1, 3) == [Generated([5, 2], [-0.5, -0.25], True, 3)]
    with pytest.raises(SamplingError, match=r"with version 3 of the weights, where 4 was asked"):
        read_drawn(answer, 1, 4)
    with pytest.raises(SamplingError, match="answered 1 of 2"):
        read_drawn(answer, 2, 3)


def test_a_worker_without_the_version_that_was_sent_refuses(tiny_model, tmp_path):
    made = []
    with opened(policy(tiny_model), tmp_path, made) as sampler:
        sampler.sync()
        sampler._weights = ""  # as with nccl, after a worker was started again
        with pytest.raises(SamplingError, match=r"holds version 0 .* asked for 1"):
            drawn(sampler)


def test_nccl_needs_vllm_and_gpus(tiny_model, tmp_path, monkeypatch):
    backbone = policy(tiny_model)
    for engine, message in (("transformers", "has none; choose engine=vllm"), ("vllm", "adapter")):
        monkeypatch.setattr("rlaif.generation.remote.opening.choose_engine", lambda name: name)
        with pytest.raises(SamplingError, match=message):
            open_rollout_workers(
                engine, backbone, (64, 0.1), None, workers=1, transport="nccl", folder=tmp_path
            )


def test_shares_are_even_and_equal_prompts_come_together():
    shares = even_shares([[1, 2], [7], [1, 2], [8], [1, 2, 3]], 2)
    assert shares == [[1, 3], [0, 2, 4]]
    assert even_shares([[1]], 3) == [[0]]
    assert even_shares([], 3) == []
