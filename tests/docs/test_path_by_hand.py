"""The shell blocks of README.md and docs/getting_started.md run to their end, in order.

At tiny sizes, by documented means alone: RLAIF_CACHE holds a model of 50 000 random weights under
each short name, RLAIF_STORE and RLAIF_SERVE_PORT keep runs apart, and commands get arguments
appended (APPENDED). Judge servers are real and listen on real sockets, but their engine is a FAKE
that prefers the longer reply (tests/support/service/fake_judge.py).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.service.fake_judge import FAKE_VLLM
from tests.support.service.server_process import ENDS_WITHIN, free_port
from tests.support.shell_blocks import ShellBlock, commands, fences, shell_blocks
from tests.support.training.tiny_model import save_tiny_model

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "docs/getting_started.md")
TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}

NOT_RUN = {
    "make demo": "real models, 10 to 45 minutes; tests/rlaif/pipeline runs recipes at tiny sizes",
    "make test": "this test is part of it",
    "make install": "installs a few GB",
    ". .venv/bin/activate": "the test has its own `rlaif` on the path",
    "pip install": "needs a package index; tests/test_base_install.py has the base install",
}
"""Commands by how they begin → why they are not run here."""

APPENDED = {
    "rlaif judge": "--server {server}",
    "rlaif run": "--dry-run",
    "rlaif sample": "--limit 4 engine=transformers max_new_tokens=8",
    "rlaif train sft": "epochs=1",
    "rlaif train reward": "epochs=1",
    "rlaif train dpo": "epochs=1",
    "rlaif train ppo": "engine=transformers iterations=1 prompts_per_iteration=2 max_new_tokens=8",
    "rlaif train rest": "engine=transformers samples_per_prompt=2 quantiles=[0.5] max_new_tokens=2",
}
"""Commands by how they begin → arguments after those of the page; the last of a kind counts."""

SHORT_NAMES = ("smollm2-135m", "qwen2.5-coder-1.5b")
MY_RULES = """
name: my_rules
version: 1.0.0
traits: {overall: {description: How good the reply is.}}
principles:
  - id: says-more
    trait: overall
    compare: Prefer the reply that says more about what to do next.
    critique: Find what the reply leaves open.
    revise: Add what to do next.
    examples:
      - prompt: My parcel is late.
        response_a: I will call the depot now and write to you by noon.
        response_b: Sorry.
        preferred: A
"""

MY_GOLD = (
    {"prompt": "My parcel is late.", "chosen": "I will call the depot now.", "rejected": "Sorry."},
    {"prompt": "Where is it?", "chosen": "At the depot, until noon.", "rejected": "Somewhere."},
)


def not_run(command: str) -> bool:
    return any(command.startswith(start) for start in NOT_RUN)


def shrunk(command: str, server: str) -> str:
    more = [text for start, text in APPENDED.items() if command.startswith(start)]
    return " ".join([command, *more]).replace("{server}", server)


# ── the pages ────────────────────────────────────────────────────────────────────────────────


def test_commands_are_read_without_comments_and_continuations() -> None:
    content = "# first\nmake demo     # all of it\na --b \\\n    'c # d'\n\n"
    assert commands(content) == ["make demo", "a --b 'c # d'"]


def test_a_here_document_belongs_to_its_command() -> None:
    content = "cat > a <<'END'\n{  # kept\n\n}\nEND\nmake b\n"
    assert commands(content) == ["cat > a <<'END'\n{  # kept\n\n}\nEND", "make b"]


def test_every_block_says_what_it_is() -> None:
    """A block of commands without a language would be left out of the test unseen."""
    for page, text in TEXTS.items():
        languages = {language for language, _, _ in fences(text)}
        assert languages <= {"sh", "python", "text"}, page
        for language, line, content in fences(text):
            assert language != "text" or "rlaif " not in content, f"{page}:{line}"


def test_every_exception_and_every_shrinking_is_used() -> None:
    lines = [c for page in PAGES for block in shell_blocks(page, TEXTS[page])
             for c in block.commands]  # fmt: skip
    for start in (*NOT_RUN, *APPENDED):
        assert any(line.startswith(start) for line in lines), start


# ── the path ─────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which `rlaif models fetch` finds both models, tiny and intact."""
    from rlaif.data.files import file_sha256
    from rlaif.models.catalog import MARK

    cache = tmp_path_factory.mktemp("cache")
    for name in SHORT_NAMES:
        folder = cache / "models" / name
        save_tiny_model(folder)
        _lengthen_context(folder, 2048)
        files = {
            file.name: {"bytes": file.stat().st_size, "sha256": file_sha256(file)}
            for file in folder.iterdir()
        }
        (folder / MARK).write_text(json.dumps({"name": name, "files": files}))
    return cache


def _lengthen_context(folder: Path, tokens: int) -> None:
    """Sets the context of a model with rotary positions, whose weights do not depend on it."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"max_position_embeddings": tokens}))


class Reader:
    """Somebody who follows a page in a folder of their own."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder / "work"
        self.folder.mkdir()
        self.port = free_port()
        self.server = f"127.0.0.1:{self.port}"
        self._servers: list[subprocess.Popen[bytes]] = []
        self._log = folder / "server.log"
        tools = folder / "tools"
        tools.mkdir()
        (tools / "sitecustomize.py").write_text(FAKE_VLLM)
        command = tools / "rlaif"
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m rlaif "$@"\n')
        command.chmod(0o755)
        self._environment = {
            **os.environ,
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"{tools}{os.pathsep}{ROOT}",
            "RLAIF_CACHE": str(cache),
            "RLAIF_STORE": str(folder / "reads.sqlite"),
            "RLAIF_SERVE_PORT": str(self.port),
            "OMP_NUM_THREADS": "1",
        }
        (self.folder / "my_rules.yaml").write_text(MY_RULES)
        (self.folder / "my_gold.jsonl").write_text("\n".join(map(json.dumps, MY_GOLD)))
        prompts = [json.dumps({"prompt": f"Say {n}."}) for n in range(20)]
        (self.folder / "my_prompts.jsonl").write_text("\n".join(prompts))

    def follow(self, block: ShellBlock) -> None:
        for command in block.commands:
            if not_run(command):
                continue
            if command.startswith("rlaif serve"):
                self._serve(command)
            else:
                self._run(block, shrunk(command, self.server))

    def _run(self, block: ShellBlock, command: str) -> None:
        done = self.sh(command)
        assert done.returncode == 0, f"{block}: {command}\n{done.stdout}\n{self._log_end()}"

    def sh(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env=self._environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip

    def python(self, code: str) -> None:
        command = [sys.executable, "-c", code]
        subprocess.run(command, cwd=self.folder, env=self._environment, check=True)

    def _serve(self, command: str) -> None:
        """The second terminal of the page."""
        with self._log.open("ab") as log:
            self._servers.append(
                subprocess.Popen(
                    command.split(), cwd=self.folder, env=self._environment, stdout=log, stderr=log
                )
            )

    def _log_end(self) -> str:
        return self._log.read_text()[-2000:] if self._log.exists() else ""

    def stop(self) -> None:
        for server in self._servers:
            server.terminate()
            try:
                assert server.wait(ENDS_WITHIN) == 0, self._log_end()
            finally:
                server.kill()


@contextmanager
def reader(folder: Path, cache: Path) -> Iterator[Reader]:
    somebody = Reader(folder, cache)
    try:
        yield somebody
    finally:
        somebody.stop()


@pytest.mark.integration
@pytest.mark.timeout(1800)
def test_the_readme_runs_to_its_end(tmp_path: Path, cache: Path) -> None:
    with reader(tmp_path, cache) as somebody:
        for block in shell_blocks("README.md", TEXTS["README.md"]):
            somebody.follow(block)
        assert (somebody.folder / "dpo" / "adapter_config.json").is_file()


@pytest.mark.integration
@pytest.mark.timeout(3600)
def test_the_path_by_hand_runs_to_its_end(tmp_path: Path, cache: Path) -> None:
    page = "docs/getting_started.md"
    with reader(tmp_path, cache) as somebody:
        for block in shell_blocks(page, TEXTS[page]):
            somebody.follow(block)
        mine = somebody.folder / "mine"
        for made in ("ppo/adapter_config.json", "rest/adapter_config.json", "report.html"):
            assert (mine / made).is_file()
        report = (mine / "report.html").read_text(encoding="utf-8")
        sections = re.findall(r'<h2 id="[^"]*">(\w+)', report)
        assert {"labels", "reward", "dpo", "ppo", "evaluation"} <= set(sections)
        evaluation = json.loads((mine / "evaluation" / "evaluation.json").read_text())
        assert [policy["name"] for policy in evaluation["policies"]] == ["start", "DPO", "PPO"]

        (code,) = (content for language, _, content in fences(TEXTS[page]) if language == "python")
        assert "127.0.0.1:50051" in code
        somebody.python(code.replace("127.0.0.1:50051", somebody.server))


@pytest.mark.integration
def test_a_command_that_fails_fails_the_test(tmp_path: Path, cache: Path) -> None:
    with reader(tmp_path, cache) as somebody:
        block = ShellBlock("page.md", 1, ("rlaif sample missing.jsonl --model smollm2-135m",))
        with pytest.raises(AssertionError, match=r"page.md:1: rlaif sample missing.jsonl"):
            somebody.follow(block)
