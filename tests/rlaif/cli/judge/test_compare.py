"""`rlaif judge …` against a server with a fake engine: the output of each command."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlaif.cli.judge.response import highlight_prompt
from rlaif.cli.main import app
from rlaif.feedback import client
from tests.support.fakes import FakeEngine
from tests.support.service.serving import one_principle, serving

Judge = Callable[..., Awaitable[str]]
PAIR = ("Name a fruit", "An apple, for instance.", "No.")


@pytest.fixture
async def judge(tmp_path: Path) -> AsyncIterator[Judge]:
    """Runs `rlaif judge ...` in a thread beside the server; returns its output or error."""
    async with serving(
        FakeEngine(), constitutions=[one_principle(tmp_path)], allow_inline_constitutions=True
    ) as server:

        async def run(*words: str, fails: bool = False) -> str:
            arguments = ["judge", *words, "--server", server.address]
            result = await asyncio.to_thread(CliRunner().invoke, app, arguments)
            assert (result.exit_code != 0) == fails, result.output
            return str(result.exception) if fails else result.output

        yield run


async def test_a_comparison_shows_votes_spread_and_cost(judge: Judge) -> None:
    shown = await judge("compare", *PAIR, "-c", "brief")
    assert "says-more" in shown
    assert "A  P(A better) = 0.909, spread 0.000" in shown
    assert "by brief 1.0.0, pairwise: 2 reads, " in shown
    found = json.loads(await judge("compare", *PAIR, "-c", "brief", "--json"))
    assert found["verdict"] == "A"
    assert found["provenance"]["calibration"] == ""


async def test_rationales_are_shown_on_request(judge: Judge) -> None:
    assert "an answer" not in await judge("compare", *PAIR, "-c", "brief")
    shown = await judge("compare", *PAIR, "-c", "brief", "--rationale", "9")
    assert "says-more, order AB:\nan answer\n" in shown


async def test_a_ranking_a_score_and_the_texts_are_shown(judge: Judge, tmp_path: Path) -> None:
    shown = await judge("rank", *PAIR, "-c", "brief")
    assert "│ 1    │ +" in shown
    shown = await judge("score", *PAIR[:2], "-c", "brief")
    assert "+0.333 on a scale of -1 to 1  (helpful +0.33)" in shown  # E[i] = sum of i² / 45 = 19/3
    assert (await judge("critique", *PAIR[:2], "-c", "brief")).startswith("an answer\n")
    critique = tmp_path / "critique.txt"
    critique.write_text("It says too little.")
    shown = await judge("revise", *PAIR[:2], f"@{critique}", "-c", "brief", "--max-tokens", "1")
    assert "cut off, see --max-tokens" in shown
    found = await judge("revise", *PAIR[:2], "short", "-c", "brief", "--json")
    assert json.loads(found)["principle_id"] == "says-more"


async def test_a_preview_is_the_exact_prompt_with_its_length(judge: Judge) -> None:
    shown = await judge("preview", *PAIR, "-c", "brief")
    found = json.loads(await judge("preview", *PAIR, "-c", "brief", "--json"))
    assert [one["order"] for one in found] == ["AB", "BA"]
    for one in found:
        assert one["text"] in shown
        assert f"order {one['order']}: {one['prompt_tokens']} tokens, then ' A' or ' B'" in shown


def test_only_real_control_tokens_are_highlighted() -> None:
    prompt = (
        "<|im_start|>user\n[User 1a2b3c]\nSay <|im_end|>\n\n[Reply A 1a2b3c]\na\n\n"
        "[Question 1a2b3c]\nWhich?<|im_end|>\n"
    )
    styled = highlight_prompt(prompt)
    assert styled.plain == prompt
    colored = [(s.start, s.end) for s in styled.spans if s.style == "bold yellow"]
    assert [prompt[start:end] for start, end in colored] == ["<|im_start|>", "<|im_end|>"]
    assert colored[1][0] == prompt.rindex("<|im_end|>")


async def test_a_constitution_file_is_sent_inline(judge: Judge, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    text = Path(one_principle(tmp_path)).read_text()
    mine.write_text(text.replace("name: brief", "name: mine"))
    found = json.loads(await judge("compare", *PAIR, "-c", str(mine), "--json"))
    assert found["provenance"]["constitution_name"] == "mine"


async def test_a_missing_judgment_is_an_error_with_the_reason(judge: Judge) -> None:
    message = await judge("score", "Name a fruit", " ", "-c", "brief", fails=True)
    assert message.startswith("no score (empty_response): ")
    message = await judge(
        "critique", *PAIR[:2], "-c", "brief", "--principle", "says-mor", fails=True
    )
    assert "did you mean 'says-more'?" in message


def test_a_started_server_serves_several_constitutions_and_inline_ones(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: list[list[str]] = []

    def popen(command: list[str], **_: object) -> None:
        started.append(command)
        raise InterruptedError

    monkeypatch.setattr(client.subprocess, "Popen", popen)
    for constitutions in ("", "hhh", ["hhh", "mine.yaml", "hhh"]):
        with (
            pytest.raises(InterruptedError),
            client.judge_client("m", constitutions, tmp_path / "log"),
        ):
            pass
    assert "--constitution" not in started[0], "the server has the default"
    one, several = (command[command.index("--constitution") :] for command in started[1:])
    assert one == ["--constitution", "hhh", "--allow-inline", "--exit-on-stdin-close"]
    assert several[:4] == ["--constitution", "hhh", "--constitution", "mine.yaml"]
    assert several[4] == "--allow-inline"
