"""The examples in the clients' docstrings, run against a server with a fake engine."""

from __future__ import annotations

import ast
import asyncio
import doctest
import inspect
import re
import textwrap
from collections.abc import Awaitable

import pytest

from constitution.schema import Message
from judge_service.client import sync
from judge_service.client.sync import AsyncJudgeClient, JudgeClient
from judge_service.types import Comparison, WritingOptions
from tests.support.fakes import FakeEngine
from tests.support.service.serving import serving

NAMES = {"Comparison": Comparison, "Message": Message, "WritingOptions": WritingOptions}
CALLS = [name for name, _ in inspect.getmembers(JudgeClient, inspect.isfunction) if name[0] != "_"]
WITHOUT_EXAMPLE = {"close", "constitution", "constitutions", "validate_constitution"}


def indented_block(docstring: str) -> str:
    """The code block of a docstring: its lines indented by four; "" without one."""
    block = re.search(r"^(?:    .*\n)+", inspect.cleandoc(docstring) + "\n", re.MULTILINE)
    return textwrap.dedent(block[0]) if block else ""


@pytest.mark.parametrize("name", CALLS)
def test_both_clients_describe_a_call_in_the_same_words(name: str) -> None:
    docstrings = (getattr(client, name).__doc__ for client in (JudgeClient, AsyncJudgeClient))
    summary, twin = (docstring.partition("\n")[0] for docstring in docstrings)
    assert summary == twin.replace("`async with`", "a `with` block")


async def test_the_examples_of_the_sync_client_give_the_results_they_show() -> None:
    text = "\n".join(inspect.getdoc(getattr(JudgeClient, name)) or "" for name in CALLS)
    parser = doctest.DocTestParser()
    examples = parser.get_doctest(text, dict(NAMES), "JudgeClient", sync.__file__, 0)
    documented = [name for name in CALLS if f"judge.{name}(" in text]
    failures: list[str] = []

    def run(address: str) -> doctest.TestResults:
        with JudgeClient(address) as judge:
            examples.globs["judge"] = judge
            return doctest.DocTestRunner().run(examples, out=failures.append)

    async with serving(FakeEngine()) as server:
        results = await asyncio.to_thread(run, server.address)
    assert not failures, "".join(failures)
    assert results.attempted >= len(documented)
    assert set(CALLS) - set(documented) == WITHOUT_EXAMPLE


@pytest.mark.parametrize("name", [name for name in CALLS if name not in WITHOUT_EXAMPLE])
async def test_the_examples_of_the_async_client_run(name: str) -> None:
    source = indented_block(getattr(AsyncJudgeClient, name).__doc__)
    assert "judge." in source
    code = compile(source, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    async with serving(FakeEngine()) as server, AsyncJudgeClient(server.address) as judge:
        running: Awaitable[None] = eval(code, {**NAMES, "judge": judge})
        await running
