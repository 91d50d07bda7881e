"""Rounds whose models are stand-ins: a policy answers with as many words as it was trained to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from judge_service.types import Comparison, Judgment, Unjudged
from rlaif.data.records import Sample, write_jsonl
from rlaif.models import catalog
from rlaif.pipeline.context import RunContext
from rlaif.pipeline.graph import build_graph, without_rounds
from rlaif.pipeline.recipe import Recipe
from rlaif.pipeline.runner import Selection, locked, run_stages
from tests.support.feedback.scripted_judge import ScriptedJudge
from tests.support.training.recipes import a_recipe

ONE_BRANCH: dict[str, Any] = dict.fromkeys(
    ("sft", "reward", "ppo", "rest", "responses", "evaluation")
)
START_WORDS = 3


def in_rounds(stages: dict[str, Any] | None = None, /, **rounds: Any) -> Recipe:
    """samples → labels → dpo in three rounds, and a report; `rounds` changes its settings."""
    return a_recipe({**ONE_BRANCH, **(stages or {})}, rounds={"count": 3, **rounds})


class CountingJudge(ScriptedJudge):
    """Notes the texts of every pair that it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[tuple[str, frozenset[str]]] = []

    def judge(self, comparison: Comparison) -> Judgment | Unjudged:
        texts = frozenset((comparison.response_a, comparison.response_b))
        self.read.append((comparison.conversation[-1].content, texts))
        return super().judge(comparison)


class RoundsWorld:
    """Runs recipes. `gains`: words that a training adds by the number of the round; the judge
    prefers the longer response. `trained`: (folder, model, number of labels) of every training."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.judge = CountingJudge()
        self.client: Any = self.judge
        self.gains = [2, 2, 2]
        self.lettered = True  # whether models of equal length answer with other words
        self.spread = 1  # words between the responses to one prompt
        self.trained: list[tuple[str, str, int]] = []
        self.served = 0
        self.said = ""

    def run(self, recipe: Recipe, *, only: Sequence[str] = ()) -> str:
        """Run it, and return what was printed."""
        console = Console(file=StringIO(), width=300)
        recipe = without_rounds(recipe)
        graph, context = build_graph(recipe, self.folder), RunContext(recipe, self.folder)
        chosen = frozenset(graph[name] for name in only) if only else None
        try:
            with locked(self.folder):
                run_stages(graph.stages, context, console, Selection(chosen))
        finally:
            assert isinstance(console.file, StringIO)
            self.said = console.file.getvalue()
        return self.said

    def words(self, model: str) -> int:
        config = Path(model) / "config.json"
        return int(json.loads(config.read_text())["words"]) if config.is_file() else START_WORDS

    def sample(self, model: str, prompts: Any, out: Path, config: Any) -> None:
        # A letter for the model, so that equal lengths are not equal texts.
        lettered = self.lettered and "round-" in model
        letter = model.split("round-")[1][1] if lettered else "s"
        write_jsonl(
            out,
            [
                Sample(
                    prompt=prompt, index=index, tokens=5, complete=True, seed=0,
                    response=f"{letter} " * (self.words(model) + self.spread * index),
                )
                for prompt in prompts
                for index in range(config.n)
            ],
        )  # fmt: skip

    def train(self, config: Any, model: str, records: Any, out: Path, heldout: Any) -> None:
        number = int(out.parent.name.removeprefix("round-"))
        self.trained.append((f"{out.parent.name}/{out.name}", model, len(records)))
        words = START_WORDS + sum(self.gains[:number])
        (out / "adapter_config.json").write_text(json.dumps({"words": words}))

    def merge(self, base: str, adapter: Path, out: Path, dtype: str) -> None:
        out.mkdir(exist_ok=True)
        (out / "config.json").write_text((adapter / "adapter_config.json").read_text())


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RoundsWorld:
    made = RoundsWorld(tmp_path / "run")
    monkeypatch.setattr(catalog, "resolve", lambda name: f"/models/{name}")
    monkeypatch.setattr("rlaif.generation.offline.sample", made.sample)
    monkeypatch.setattr("rlaif.algorithms.dpo.train.train", made.train)
    monkeypatch.setattr("rlaif.models.merge.merge_adapter", made.merge)
    monkeypatch.setattr(
        "rlaif.pipeline.kinds.rounds.evaluate_round.kl_to_start", lambda *given: None
    )

    @contextmanager
    def judge_client(self: Any, judge: Any, constitution: str, log: Path) -> Iterator[Any]:
        made.served += 1
        yield made.client

    monkeypatch.setattr(RunContext, "judge_client", judge_client)
    return made
