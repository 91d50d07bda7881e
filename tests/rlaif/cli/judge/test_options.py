"""Commands that use a server wait for it on request, and judge by its default constitution."""

import asyncio
import json
import re
from contextlib import asynccontextmanager

import pytest
from typer.testing import CliRunner

from constitution import DEFAULT_CONSTITUTION, Constitution
from constitution.errors import UserError
from judge_service.server.app import JudgeServer
from judge_service.settings import ServerSettings
from rlaif.api.inputs import constitution_of
from rlaif.cli.main import app
from rlaif.data.records import Prompt, Sample, write_jsonl
from rlaif.pipeline.recipe import Recipe
from tests.support.fakes import FakeEngine
from tests.support.feedback.labeled import labeled
from tests.support.service.server_process import free_port
from tests.support.service.serving import one_principle, settings
from tests.support.training.pairs import preference

PAIR = ("Name a fruit", "An apple, for instance.", "No.")
COMMANDS = {
    "compare": PAIR,
    "rank": PAIR,
    "score": PAIR[:2],
    "critique": PAIR[:2],
    "revise": (*PAIR[:2], "It says too little."),
    "preview": PAIR,
}


async def rlaif(*words):
    return await asyncio.to_thread(CliRunner().invoke, app, [str(word) for word in words])


class LoadingEngine(FakeEngine):
    """Loads until `loaded` is set."""

    def __init__(self):
        super().__init__()
        self.loaded = asyncio.Event()

    async def start(self):
        await self.loaded.wait()


@asynccontextmanager
async def loading(tmp_path, seconds=None):
    """A server that loads its model for `seconds`, or until the end of the block."""
    engine = LoadingEngine()
    server = JudgeServer(settings(constitutions=[one_principle(tmp_path)]), engine)
    await server.start()
    load = asyncio.create_task(server.load())
    if seconds is not None:
        asyncio.get_running_loop().call_later(seconds, engine.loaded.set)
    try:
        yield server
    finally:
        engine.loaded.set()
        await load
        await server.stop()


# ── waiting ──────────────────────────────────────────────────────────────────────────────────


async def test_a_loading_server_is_an_error_that_suggests_wait(tmp_path):
    async with loading(tmp_path) as server:
        for command, words in COMMANDS.items():
            found = await rlaif("judge", command, *words, "--server", server.address)
            assert isinstance(found.exception, UserError), command
            assert "still loading its model; use --wait" in str(found.exception), command


async def test_wait_returns_an_answer_once_the_server_is_ready(tmp_path):
    async with loading(tmp_path, 0.6) as server:
        at = ("--server", server.address, "--json")
        found = await rlaif("judge", "compare", *PAIR, "--wait", *at)
        assert found.exit_code == 0, found.output
        assert json.loads(found.stdout)["verdict"] == "A"


async def test_every_judge_command_waits_too(tmp_path):
    async with loading(tmp_path, 0.3) as server:
        for command, words in COMMANDS.items():
            found = await rlaif("judge", command, *words, "--wait", "--server", server.address)
            assert found.exit_code == 0, (command, found.exception)


async def test_the_time_limit_ends_the_wait_with_the_state_and_the_seconds(tmp_path):
    async with loading(tmp_path) as server:
        found = await rlaif(
            "judge", "score", *PAIR[:2], "--wait-timeout", 0.3, "--server", server.address
        )
        assert re.search(r"still loading its model \(waited \d+ s\)", str(found.exception))


def test_no_server_is_an_error_that_suggests_wait_and_serve():
    address = f"127.0.0.1:{free_port()}"
    found = CliRunner().invoke(app, ["judge", "compare", *PAIR, "--server", address])
    for part in (address, "rlaif serve", "--wait"):
        assert part in str(found.exception)


def test_wait_also_waits_for_a_server_that_does_not_answer_yet_but_not_forever():
    address = f"127.0.0.1:{free_port()}"
    found = CliRunner().invoke(
        app, ["judge", "compare", *PAIR, "--server", address, "--wait-timeout", "0.5"]
    )
    assert "waited" in str(found.exception)


async def test_label_waits_too(tmp_path):
    prompt = Prompt(id="p", messages=({"role": "user", "content": "Name a fruit"},))
    answers = [
        Sample(prompt=prompt, index=i, response=text, tokens=1, complete=True, seed=0)
        for i, text in enumerate(PAIR[1:])
    ]
    write_jsonl(tmp_path / "samples.jsonl", answers)
    async with loading(tmp_path, 0.6) as server:
        found = await rlaif(
            "label", tmp_path / "samples.jsonl", "--out", tmp_path / "labels", "--wait",
            "--server", server.address,
        )  # fmt: skip
        assert found.exit_code == 0, found.exception
        assert "1 labels by brief 1.0.0" in found.output


# ── which constitution ───────────────────────────────────────────────────────────────────────


async def test_without_a_constitution_the_servers_default_judges(tmp_path):
    async with loading(tmp_path, 0.1) as server:
        found = await rlaif("judge", "compare", *PAIR, "--wait", "--server", server.address)
        assert "by brief 1.0.0" in found.output


def test_servers_and_recipes_have_the_same_default():
    assert ServerSettings(model="m").constitutions == (DEFAULT_CONSTITUTION,)
    assert DEFAULT_CONSTITUTION in Constitution.library_names()
    assert Recipe.load("quickstart").constitution == DEFAULT_CONSTITUTION


def test_a_reward_model_is_weighted_by_the_constitution_that_made_the_labels(tmp_path):
    from rlaif.data.datasets import read_preferences

    labels = read_preferences(labeled(tmp_path / "labels"))
    with pytest.raises(UserError, match=r"made by small 1\.0\.0 .* give its file with --const"):
        constitution_of("", labels)
    shipped = Constitution.load("hhh")
    receipt = json.loads(labels[0].receipt) | {"constitution_sha256": shipped.digest}
    by_hhh = [labels[0].model_copy(update={"receipt": json.dumps(receipt)})]
    assert constitution_of("", by_hhh) == shipped
    assert constitution_of("harmless", labels).name == "harmless"
    assert constitution_of("", [preference(0, "a", "b")]).name == DEFAULT_CONSTITUTION


def test_an_update_from_an_old_constitution_needs_the_new_one(tmp_path):
    command = ["label", str(tmp_path / "s.jsonl"), "--update", "--from", "old.yaml"]
    assert "name it with --constitution" in str(CliRunner().invoke(app, command).exception)
