"""trl's GRPOTrainer takes real steps on the ratings of our judge, over a real gRPC server."""

from __future__ import annotations

import asyncio
import math
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from judge_service.client.sync import AsyncJudgeClient
from rlaif.feedback.trl_reward import TRLJudgeReward, reply
from tests.integration.rlaif.test_trl_reads_labels import byte_tokenizer, tiny_llama
from tests.support.fakes import FakeEngine
from tests.support.service.serving import one_principle, serving

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch.*"),
    pytest.mark.filterwarnings("ignore:TRL currently supports vLLM:UserWarning"),
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A tiny model on one thread: on a busy machine, threads waiting for each other cost 100 x."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Recording(TRLJudgeReward):
    """Records the batches that TRL sent and the rewards that it got."""

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.seen: list[tuple[str, float | None]] = []

    async def __call__(self, prompts, completions, **kwargs):
        scores = await super().__call__(prompts, completions, **kwargs)
        self.seen.append([*zip(map(reply, completions), scores, strict=True)])
        return scores


@pytest.mark.parametrize("conversational", [True, False])
async def test_the_ratings_of_the_judge_are_the_rewards_of_the_trainer(
    tmp_path: Path, conversational: bool
):
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    questions = [f"Question {n}?" for n in range(4)]
    rows = [
        {"prompt": [{"role": "user", "content": q}] if conversational else q} for q in questions
    ]
    tokenizer = byte_tokenizer()
    async with serving(FakeEngine(), constitutions=(one_principle(tmp_path),)) as server:
        reward = Recording(lambda: AsyncJudgeClient(server.address), "brief", concurrency=4)

        def train():
            trainer = trl.GRPOTrainer(
                model=tiny_llama(tmp_path / "model", tokenizer),
                reward_funcs=reward,
                args=trl.GRPOConfig(
                    output_dir=str(tmp_path / "out"),
                    max_steps=2,
                    num_generations=4,
                    per_device_train_batch_size=8,
                    max_completion_length=30,
                    use_cpu=True,
                    bf16=False,
                    gradient_checkpointing=False,
                    report_to="none",
                    save_strategy="no",
                    logging_steps=1,
                    disable_tqdm=True,
                ),
                train_dataset=Dataset.from_list(rows),
                processing_class=tokenizer,
            )
            trainer.train()
            return trainer

        trainer = await asyncio.to_thread(train)  # the server lives in this loop
    assert trainer.state.global_step == 2
    logs = [line for line in trainer.state.log_history if "reward" in line]
    assert len(logs) == len(reward.seen) == 2
    for line, seen in zip(logs, reward.seen, strict=True):
        assert len(seen) == 8
        for text, score in seen:
            # the fake engine likes what has 20 characters or more, see like_longer
            expected = None if not text.strip() else (1 if len(text) >= 20 else -1) / 3
            assert score == (expected if expected is None else pytest.approx(expected, abs=1e-6))
        rated = [score for _, score in seen if score is not None]
        mean = sum(rated) / len(rated)
        assert line["rewards/judge/mean"] == pytest.approx(mean, abs=1e-5)
        assert line["judge/unrated"] == pytest.approx(1 - len(rated) / 8)
        if len(rated) == 8:
            assert line["reward"] == pytest.approx(mean, abs=1e-5)
        assert math.isfinite(line["loss"])


async def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    pytest.importorskip("trl")
    tokenizer = byte_tokenizer()
    model = tiny_llama(tmp_path / "model", tokenizer)
    tokenizer.save_pretrained(model)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Why?"}\n{"prompt": "How?"}\n')
    example = Path(__file__).parents[3] / "examples" / "grpo_with_our_judge.py"
    async with serving(FakeEngine(), constitutions=(one_principle(tmp_path),)) as server:
        arguments = ["--model", model, "--server", server.address, "--steps", "1"]
        arguments += ["--prompts", str(tmp_path / "prompts.jsonl"), "--out", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", [str(example), *arguments])
        await asyncio.to_thread(runpy.run_path, str(example), run_name="__main__")
    assert "policy: " in capsys.readouterr().out
    assert (tmp_path / "out" / "model.safetensors").is_file()
