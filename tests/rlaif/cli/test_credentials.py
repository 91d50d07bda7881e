"""--ca and --token of the commands that call a judge server, over a real TLS socket."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from constitution.errors import UserError
from constitution.schema import Message
from judge_service.security.tokens import Token, digest_of, new_token, to_entry
from rlaif.cli.main import app
from rlaif.data.records import Prompt, Sample, write_jsonl
from rlaif.feedback.client import judge_reward
from rlaif.feedback.connection import credentials_given, judge_at
from tests.support.fakes import FakeEngine
from tests.support.feedback.labeled import labeled
from tests.support.service.certificates import Authority
from tests.support.service.serving import one_principle, serving

TOKEN = new_token()
PAIR = ("Name a fruit", "An apple, for instance.", "No.")


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RLAIF_TOKEN", "RLAIF_CA", "RLAIF_CERTIFICATE", "RLAIF_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """authority.pem, server.pem and .key, tokens.yaml, token, brief.yaml and samples.jsonl."""
    folder = tmp_path_factory.mktemp("guarded")
    Authority(folder).sign("server")
    scopes = frozenset(["judge", "read"])
    entry = Token(name="tester", sha256=digest_of(TOKEN), scopes=scopes)
    (folder / "tokens.yaml").write_text(to_entry(entry))
    (folder / "token").write_text(TOKEN + "\n")
    one_principle(folder)
    prompt = Prompt(id="p", messages=({"role": "user", "content": "Name a fruit"},))
    answers = [
        Sample(prompt=prompt, index=i, response=text, tokens=1, complete=True, seed=0)
        for i, text in enumerate(PAIR[1:])
    ]
    write_jsonl(folder / "samples.jsonl", answers)
    return folder


@asynccontextmanager
async def guarded(files: Path, **more: Any) -> AsyncIterator[str]:
    """The address of a server with TLS that requires the token."""
    async with serving(
        FakeEngine(),
        constitutions=[str(files / "brief.yaml")],
        allow_inline_constitutions=True,
        tokens=files / "tokens.yaml",
        tls_certificate=files / "server.pem",
        tls_key=files / "server.key",
        **more,
    ) as server:
        yield server.address


async def rlaif(*words: object) -> Any:
    return await asyncio.to_thread(CliRunner().invoke, app, [str(word) for word in words])


async def test_every_command_that_calls_a_server_takes_its_authority_and_token(
    files: Path, tmp_path: Path
) -> None:
    labels = await asyncio.to_thread(labeled, tmp_path / "labels")
    samples = files / "samples.jsonl"
    brief = files / "brief.yaml"
    commands: dict[str, list[object]] = {
        "compare": ["judge", "compare", *PAIR],
        "rank": ["judge", "rank", *PAIR],
        "score": ["judge", "score", *PAIR[:2]],
        "critique": ["judge", "critique", *PAIR[:2]],
        "revise": ["judge", "revise", *PAIR[:2], "It says too little."],
        "preview": ["judge", "preview", *PAIR],
        "label": ["label", samples, "--out", tmp_path / "new"],
        "revisions": ["revise", samples, "--out", tmp_path / "revisions"],
        "evaluate": ["evaluate", f"a={samples}", "--start", samples, "--out", tmp_path / "e"],
        "examples": ["constitution", "test", brief],
        "verify": ["labels", "verify", labels, "--sample", "1"],
    }
    async with guarded(files) as address:
        for name, words in commands.items():
            at = ("--server", address, "--ca", files / "authority.pem")
            without = await rlaif(*words, *at)
            assert "missing token" in str(without.exception), name
            found = await rlaif(*words, *at, "--token", f"@{files / 'token'}")
            assert not isinstance(found.exception, UserError), (name, found.exception)
            assert found.exit_code == (1 if name == "verify" else 0), (name, found.output)


async def test_a_token_itself_and_the_environment_work_too(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with guarded(files) as address:
        words = ("judge", "compare", *PAIR, "--server", address, "--json")
        assert isinstance((await rlaif(*words, "--token", TOKEN)).exception, UserError)  # no TLS
        found = await rlaif(*words, "--ca", files / "authority.pem", "--token", TOKEN)
        assert json.loads(found.output)["verdict"] == "A"
        monkeypatch.setenv("RLAIF_CA", str(files / "authority.pem"))
        found = await rlaif(*words)
        assert "missing token" in str(found.exception)
        monkeypatch.setenv("RLAIF_TOKEN", "wrong-token")
        found = await rlaif(*words)
        assert isinstance(found.exception, UserError)
        found = await rlaif(*words, "--token", TOKEN)  # the flag takes precedence
        assert found.exit_code == 0, found.exception


async def test_a_reward_of_a_judge_uses_them_too(files: Path) -> None:
    def score(address: str) -> list[float | None]:
        with (
            credentials_given(token=TOKEN, ca=files / "authority.pem"),
            judge_reward(address, "brief") as reward,
        ):
            question = Message(role="user", content=PAIR[0])
            return reward([[question]], [PAIR[1]])

    async with guarded(files) as address:
        (found,) = await asyncio.to_thread(score, address)
    assert found is not None
    assert -1 <= found <= 1


def test_credentials_end_with_their_command(tmp_path: Path) -> None:
    Authority(tmp_path)
    before = dict(os.environ)
    with (
        credentials_given(token="secret", ca=tmp_path / "authority.pem"),
        judge_at("judge.example:1") as client,
    ):
        assert ("authorization", "Bearer secret") in client._connection.metadata
        assert client._connection.credentials is not None
    with judge_at("127.0.0.1:1") as client:
        assert client._connection.metadata == ()
        assert client._connection.credentials is None
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("content", "problem"), [(None, "cannot be read"), ("  \n", "the file is empty")]
)
def test_an_unusable_token_file_is_named(tmp_path: Path, content: str | None, problem: str) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
    found = CliRunner().invoke(app, ["judge", "compare", *PAIR, "--token", f"@{file}"])
    assert problem in str(found.exception)
    assert str(file) in str(found.exception)


def test_the_help_recommends_a_file_over_a_visible_token() -> None:
    for words in ("label", "evaluate", "judge compare", "constitution test", "train ppo"):
        command = words.split()
        text = " ".join(CliRunner().invoke(app, [*command, "--help"]).output.split())
        assert "--ca FILE" in text, command
        assert "Prefer @FILE" in text, command
    assert "--token" not in CliRunner().invoke(app, ["sample", "--help"]).output
