"""Did you mean: whatever is misspelled on a command line is answered with the nearest that exists.

The names inside recipes are in tests/rlaif/pipeline and tests/test_fast_refusals.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from constitution.errors import UserError, expected_one_of
from judge_service.types import JudgeOptions, WritingOptions
from rlaif.cli.commands import with_nearest_choice
from rlaif.cli.main import app
from tests.support.fakes import FakeEngine
from tests.support.service.serving import one_principle, serving

SHORT = "--model smollm2-135m"

TYPOS = [
    # commands and groups
    ("labell", "Did you mean 'label'"),
    ("srve --model m", "Did you mean 'serve'"),
    ("constituton lint hhh", "Did you mean 'constitution'"),
    ("train dpoo pairs.jsonl", "Did you mean 'dpo'"),
    ("labels expor pairs.jsonl", "Did you mean 'export'"),
    ("judge compair a b c", "Did you mean 'compare'"),
    # flags
    ("label samples.jsonl --sever x", "--server"),
    ("run quickstart --dry-rum", "--dry-run"),
    ("run quickstrat", "did you mean 'quickstart'?"),
    ("train dpo x --model m --beta 0.2", "--beta is a setting: write beta=..."),
    ("sample quickstart --model m --max-new-tokens 4", "write max_new_tokens=..."),
    ("run quickstart dop.beta=1", "did you mean 'dpo'?"),
    ("run quickstart --from dop", "did you mean 'dpo'?"),
    ("recipes quickstrat", "did you mean 'quickstart'?"),
    ("judge compare a b c --tokn x", "--token"),
    ("serve --modle m", "did you mean --model?"),
    ("serve --model m --max-candidate 3", "did you mean --max-candidates?"),
    # choices
    ("labels export pairs.jsonl --format trll --out o", "did you mean 'trl'?"),
    (f"train dpo pairs.jsonl {SHORT} --resume nevr", "did you mean 'never'?"),
    ("models merge a b --dtype bfloat", "did you mean 'bfloat16'?"),
    ("constitution lint hhh --format githb", "did you mean 'github'?"),
    ("token new me --scopes jugde,read", "did you mean 'judge'?"),
    ("serve --model m --engine opanai", "did you mean 'openai'?"),
    ("serve --model m --dtype float23", "did you mean 'float32'?"),
    ("serve --model m --log-format jsn", "did you mean 'json'?"),
    # short names of models
    ("sample prompts.jsonl --model smollm2-135", "did you mean smollm2-135m?"),
    (f"models fetch {SHORT.removeprefix('--model ')[:-2]}", "did you mean smollm2-135m?"),
    ("train sft pairs.jsonl --model smolm2-135m", "did you mean smollm2-135m?"),
    ("serve --model qwen-coder-1.5b", "did you mean qwen2.5-coder-1.5b?"),
    # constitutions, prompts, splits, reward sources
    ("constitution show hhhh", "did you mean 'hhh'?"),
    ("constitution lint harmles", "did you mean 'harmless'?"),
    ("serve --model org/name --constitution overal", "did you mean 'overall'?"),
    (f"sample quickstar {SHORT}", "did you mean 'quickstart'?"),
    (f"sample quickstart {SHORT} --split heldou", "did you mean 'heldout'?"),
    ("train ppo prompts.jsonl --model org/name --reward juge:h:1", "did you mean 'judge'?"),
    # settings: keys and values
    (f"train dpo pairs.jsonl {SHORT} bta=1", "did you mean 'beta'?"),
    (f"train dpo pairs.jsonl {SHORT} loss=sigmod", "did you mean 'sigmoid'?"),
    (f"train dpo pairs.jsonl {SHORT} keep=bst", "did you mean 'best'?"),
    (f"train sft pairs.jsonl {SHORT} trackers=[tensorbord]", "did you mean 'tensorboard'?"),
    (f"train ppo prompts.jsonl {SHORT} --reward r advantages=rlo", "did you mean 'rloo'?"),
    (f"train ppo prompts.jsonl {SHORT} --reward r engine=vlm", "did you mean 'vllm'?"),
    (f"sample prompts.jsonl {SHORT} engine=transformer", "did you mean 'transformers'?"),
    (f"sample prompts.jsonl {SHORT} tempature=1", "did you mean 'temperature'?"),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a file of pairs and one of prompts, and no model fetched."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLAIF_CACHE", str(tmp_path / "cache"))
    pair = {"prompt": "Say hello.", "chosen": "Hello.", "rejected": "No.", "prob_chosen": 0.9}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Say hello."}\n')
    return tmp_path


@pytest.mark.parametrize(("command", "meant"), TYPOS)
def test_a_typo_is_answered_with_what_was_meant(command: str, meant: str, folder: Path) -> None:
    found = CliRunner().invoke(app, command.split())
    assert found.exit_code != 0
    assert isinstance(found.exception, UserError | SystemExit), found.exception
    assert meant in f"{found.output} {found.exception}"


async def test_what_only_the_server_knows_is_answered_by_the_server(tmp_path: Path) -> None:
    from judge_service.client.sync import AsyncJudgeClient, JudgeRequestError

    async with (
        serving(FakeEngine(), constitutions=[one_principle(tmp_path)]) as server,
        AsyncJudgeClient(server.address) as judge,
    ):
        with pytest.raises(JudgeRequestError, match="did you mean 'pairwise'"):
            await judge.compare("a", "b", "c", "", JudgeOptions(protocol="pairwis"))
        with pytest.raises(JudgeRequestError, match="did you mean 'says-more'"):
            await judge.critique("a", "b", "", WritingOptions("say-more"))
        with pytest.raises(JudgeRequestError, match="did you mean 'brief'"):
            await judge.compare("a", "b", "c", "breif")


@pytest.mark.parametrize(
    ("message", "answered"),
    [
        ("'trll' is not one of 'trl', 'jsonl'.", "; did you mean 'trl'?"),
        ("Value error, 'trll' is not one of 'trl', 'jsonl'.", "; did you mean 'trl'?"),
        ("'x' is not one of 'trl', 'jsonl'.", "."),
        ("'a' is not a valid integer.", "integer."),
    ],
)
def test_only_a_close_choice_is_suggested(message: str, answered: str) -> None:
    suggestion = with_nearest_choice(message)
    assert suggestion.endswith(answered)
    assert not suggestion.startswith("Value error")


def test_the_expected_names_are_listed_with_the_nearest() -> None:
    assert expected_one_of("vlm", ["auto", "vllm"]) == (
        "expected one of: auto, vllm; did you mean 'vllm'?"
    )
    assert expected_one_of("zzz", ["auto", "vllm"]) == "expected one of: auto, vllm"
