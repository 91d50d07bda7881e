"""vLLM on a CPU: step size, memory check, seeded sampling with chunked prefill, logs."""

from __future__ import annotations

import json
import logging.config
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from constitution.errors import UserError
from hardware import vllm_cpu, vllm_logs
from hardware.memory import GIB, ModelSize, give_back_freed, model_size
from hardware.vllm_cpu import (
    BLOCK_TOKENS,
    SeedsSurviveChunks,
    check_memory,
    engine_arguments,
    memory_gib,
    step_tokens,
    store_in_bfloat16,
)


@pytest.mark.parametrize(
    ("weights", "gflops", "tokens"),
    [
        (1_310_000_000, 130, 96),  # 2 s · 130e9 / 2.62e9 = 99.2, the nearest blocks of 32
        (1_310_000_000, 390, 288),
        (106_000_000, 120, 1120),
        (7_000_000_000, 60, 64),  # never under 64
        (1_000_000, 120, 2048),  # nor over 2048
        (0, 120, 512),  # unknown
    ],
)
def test_a_step_takes_about_two_seconds(weights, gflops, tokens):
    assert step_tokens(weights, gflops) == tokens
    assert tokens % BLOCK_TOKENS == 0


@pytest.fixture
def folder(tmp_path):
    """A model folder of 100 weights in the vocabulary and 40 elsewhere."""
    tensors = {"model.embed_tokens.weight": torch.zeros(10, 10), "model.norm": torch.zeros(40)}
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path


def test_weights_are_counted_from_the_headers_of_all_files(folder):
    save_file({"lm_head.weight": torch.zeros(10, 10)}, folder / "model-2.safetensors")
    assert model_size(folder) == ModelSize(240, 200)


def test_a_folder_without_readable_weights_has_an_unknown_size(tmp_path):
    assert model_size(tmp_path) == ModelSize(0, 0)
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 20)
    assert model_size(tmp_path) == ModelSize(0, 0)


def test_a_step_has_at_least_one_token_per_concurrent_request(folder, monkeypatch):
    monkeypatch.setattr(vllm_cpu, "matmul_gflops", lambda dtype: 100.0)
    arguments = engine_arguments(folder, "float32", sequences=200, tokens=96)
    assert arguments["max_num_batched_tokens"] == arguments["max_num_seqs"] == 200
    assert arguments["enable_chunked_prefill"]


def test_a_model_whose_steps_come_near_vllms_limit_gets_a_higher_one(monkeypatch):
    monkeypatch.setattr(vllm_cpu.os, "environ", {})
    monkeypatch.setattr(vllm_cpu, "matmul_gflops", lambda dtype: 100.0)
    monkeypatch.setattr(vllm_cpu, "model_size", lambda folder: ModelSize(70_000_000_000, 0))
    engine_arguments("a-large-model", "float32", sequences=64)  # 64 tokens in 89.6 s
    assert vllm_cpu.os.environ == {"VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": "5376"}


# ── memory ───────────────────────────────────────────────────────────────────────────────────


def an_embedding(weight):
    return SimpleNamespace(weight=torch.nn.Parameter(weight), quant_method=SimpleNamespace())


def test_an_embedding_of_bfloat16_numbers_is_stored_as_such_and_its_rows_stay_the_same():
    weight = torch.randn(7, 4).bfloat16().float()
    embedding = an_embedding(weight)
    store_in_bfloat16(embedding)
    assert embedding.weight.dtype == torch.bfloat16
    rows = embedding.quant_method.embedding(embedding, torch.tensor([3, 0, 3]))
    assert rows.dtype == torch.float32
    assert torch.equal(rows, weight[[3, 0, 3]])


@pytest.mark.parametrize("weight", [torch.full((7, 4), 0.1), torch.ones(7, 4).half()])
def test_an_embedding_that_would_lose_digits_or_is_narrow_already_is_left_alone(weight):
    embedding = an_embedding(weight)
    store_in_bfloat16(embedding)
    assert embedding.weight.dtype == weight.dtype
    assert not vars(embedding.quant_method)


def test_freed_memory_is_given_back_and_without_glibc_nothing_happens(monkeypatch):
    give_back_freed()

    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr("ctypes.CDLL", missing)
    give_back_freed()


SIZE = ModelSize(2 * GIB, GIB // 2)  # 2 Gi weights, a quarter of them in the vocabulary


def test_memory_counts_weights_cache_processes_and_the_copy_made_while_loading():
    assert memory_gib(SIZE, "float32", 1.0) == (8 + 1 + 2 + 2, 8 + 1 + 2)
    # 16 bits: half the weights, a float32 copy of the head, and half the copy while loading
    assert memory_gib(SIZE, "bfloat16", 1.0) == (4 + 2 + 1 + 2 + 1, 4 + 2 + 1 + 2)


def test_a_model_that_does_not_fit_raises_an_error_with_free_memory_and_remedies(
    monkeypatch,
):
    monkeypatch.setattr(vllm_cpu, "available_bytes", lambda: 12 * GIB)
    expected = r"12\.0 GiB are free, loading it takes about 13\.0.*smaller model.*bfloat16"
    with pytest.raises(UserError, match=expected):
        check_memory("big", SIZE, "float32")
    monkeypatch.setattr(vllm_cpu, "available_bytes", lambda: 14 * GIB)
    assert check_memory("big", SIZE, "float32") == (13, 11)


def test_unknown_memory_or_model_size_raises_no_error(monkeypatch):
    monkeypatch.setattr(vllm_cpu, "available_bytes", lambda: None)
    assert check_memory("big", SIZE, "float32") == (13, 11)
    assert check_memory("hub/model", ModelSize(0, 0), "float32") == (0, 0)


# ── seeds ────────────────────────────────────────────────────────────────────────────────────


class FakeRunner:
    """Draws one number for every row, as vLLM's runner does, then rewinds the incomplete rows."""

    def __init__(self, seeds: dict[int, int], rows: int) -> None:
        generators = {row: torch.Generator().manual_seed(seed) for row, seed in seeds.items()}
        self.input_batch = SimpleNamespace(generators=generators)
        self.discard_request_mask = SimpleNamespace(np=np.zeros(rows, dtype=bool))
        self.rows = rows

    def sample_tokens(self, grammar_output):
        drawn = torch.empty(self.rows).exponential_()
        for row, generator in self.input_batch.generators.items():
            drawn[row] = torch.empty(1).exponential_(generator=generator)
        for row in np.nonzero(self.discard_request_mask.np)[0]:
            if generator := self.input_batch.generators.get(int(row)):
                generator.set_offset(generator.get_offset() - 4)  # a CPU's cannot
        return drawn


def test_the_token_after_the_last_chunk_is_that_of_the_seed():
    """Row 1's prompt has three chunks; row 0 samples all the time; row 2 has no seed."""
    runner = FakeRunner({0: 5, 1: 7}, rows=3)
    runner.discard_request_mask.np[1] = True
    with pytest.raises(RuntimeError, match="offset"):  # what vLLM does by itself
        runner.sample_tokens(None)

    runner = FakeRunner({0: 5, 1: 7}, rows=3)
    worker = SeedsSurviveChunks()
    worker.model_runner = runner
    worker.keep_seeds()
    runner.discard_request_mask.np[1] = True
    first = [runner.sample_tokens(None)[0] for _ in range(2)]
    runner.discard_request_mask.np[1] = False
    last = runner.sample_tokens(None)

    five, seven = torch.Generator().manual_seed(5), torch.Generator().manual_seed(7)
    assert [*first, last[0]] == [torch.empty(1).exponential_(generator=five) for _ in range(3)]
    assert last[1] == torch.empty(1).exponential_(generator=seven)


def test_generators_are_restored_when_sampling_fails():
    runner = FakeRunner({0: 5}, rows=1)
    runner.sample_tokens = None  # not callable
    worker = SeedsSurviveChunks()
    worker.model_runner = runner
    worker.keep_seeds()
    runner.discard_request_mask.np[0] = True
    with pytest.raises(TypeError):
        runner.sample_tokens(None)
    assert list(runner.input_batch.generators) == [0]


# ── logs ─────────────────────────────────────────────────────────────────────────────────────


def test_the_dump_of_a_dead_engine_is_not_logged(monkeypatch, capfd):
    for name in ("VLLM_LOGGING_LEVEL", "VLLM_LOGGING_STREAM", "VLLM_CONFIGURE_LOGGING"):
        monkeypatch.delenv(name, raising=False)
    (path,) = vllm_logs.environment().values()
    configuration = json.loads(Path(path).read_text())
    configuration["formatters"]["vllm"] = {"format": "%(message)s"}  # vLLM's own imports vLLM
    logging.config.dictConfig(configuration)
    logging.getLogger("vllm.logging_utils.dump_input").error("prompt_token_ids=[1, 2, 3]")
    logging.getLogger("vllm.v1.engine.core").error("the engine died")
    assert capfd.readouterr().err == "the engine died\n"


def test_a_log_level_in_lower_case_works_as_in_vllm(monkeypatch):
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "debug")
    (path,) = vllm_logs.environment().values()
    configuration = json.loads(Path(path).read_text())
    assert configuration["loggers"]["vllm"]["level"] == "DEBUG"
    assert configuration["handlers"]["vllm"]["level"] == "DEBUG"


def test_disabled_vllm_logging_stays_disabled(monkeypatch):
    monkeypatch.setenv("VLLM_CONFIGURE_LOGGING", "0")
    assert vllm_logs.environment() == {}
