"""`rlaif token new`, and the use of its token by a server and by clients from the environment."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from typer.testing import CliRunner

from constitution.errors import UserError
from judge_service.errors import JudgeRequestError
from judge_service.security.tokens import Tokens
from rlaif.cli.main import app
from rlaif.feedback import client as judging
from rlaif.feedback.connection import judge_at
from tests.support.fakes import FakeEngine
from tests.support.service.serving import one_principle, serving


def new(*arguments: str) -> tuple[str, str]:
    """(the token, the entry)"""
    result = CliRunner().invoke(app, ["token", "new", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stderr.rpartition(" ")[2].strip(), result.stdout


def test_a_new_token_is_printed_once_and_its_entry_is_accepted_by_a_server(tmp_path: Path) -> None:
    file = tmp_path / "tokens.yaml"
    token, entry = new("trainer")
    other, second = new("ops", "--scopes", "admin, read", "--requests-per-minute", "90")
    assert token not in entry
    file.write_text(entry + second)
    known = Tokens(file)
    trainer, operator = known.find(token), known.find(other)
    assert trainer is not None
    assert operator is not None
    assert (trainer.name, trainer.scopes) == ("trainer", {"judge", "read"})
    assert (operator.scopes, operator.requests_per_minute) == ({"admin", "read"}, 90)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["a b"], "name must be letters"),
        (
            ["x", "--scopes", "judge,write"],
            "unknown scope: .write.; expected one of: judge, read, admin",
        ),
        (["x", "--requests-per-minute", "0"], "requests_per_minute must be a number above 0"),
        (["x", "--max-concurrent", "0"], "max_concurrent must be a whole number"),
    ],
)
def test_an_entry_that_the_file_would_reject_is_refused(arguments: list[str], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        new(*arguments)


def test_a_server_of_our_own_is_started_without_the_tokens_of_other_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def popen(*_: object, env: dict[str, str], **__: object) -> None:
        assert "RLAIF_SERVE_TOKENS" not in env
        assert env["RLAIF_STORE"] == "kept"
        raise InterruptedError

    monkeypatch.setenv("RLAIF_SERVE_TOKENS", "tokens.yaml")
    monkeypatch.setenv("RLAIF_STORE", "kept")
    monkeypatch.setattr(judging.subprocess, "Popen", popen)
    with pytest.raises(InterruptedError), judging.judge_client("m", "hhh", tmp_path / "log"):
        pass


async def test_the_commands_take_the_token_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, entry = new("trainer")
    file = tmp_path / "tokens.yaml"
    file.write_text(entry)

    def count_constitutions(address: str) -> int:
        with judge_at(address) as client:
            client.wait_until_ready(10)
            return len(client.constitutions())

    constitution = one_principle(tmp_path)
    async with serving(FakeEngine(), tokens=file, constitutions=[constitution]) as server:
        monkeypatch.setenv("RLAIF_TOKEN", token)
        assert await asyncio.to_thread(count_constitutions, server.address) == 1
        monkeypatch.delenv("RLAIF_TOKEN")
        with pytest.raises(JudgeRequestError, match="RLAIF_TOKEN"):
            await asyncio.to_thread(count_constitutions, server.address)
        monkeypatch.setenv("RLAIF_CA", str(tmp_path / "absent"))
        with pytest.raises(JudgeRequestError, match="absent cannot be read"):
            await asyncio.to_thread(count_constitutions, server.address)
