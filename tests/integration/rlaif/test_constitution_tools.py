"""The constitution tools with a real judge: label, verify, edit, diff, and relabel for less."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlaif.data.datasets import read_preferences
from rlaif.data.prompts import load_prompts
from rlaif.data.records import Sample, write_jsonl
from rlaif.feedback.client import judge_client

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[3]
Run = Callable[..., str]

PAIRS = 6
WORDS = {
    "answers": "Prefer the reply that answers the question.",
    "truth": "Prefer the reply that is true.",
    "brief": "Prefer the reply that says it in fewer words.",
    "open": "Prefer the reply that says what it does not know.",
}
EDITED = WORDS | {"brief": "Prefer the reply that says more, with examples."}


def constitution_yaml(words: dict[str, str]) -> str:
    text = "name: four\nversion: 1.0.0\ntraits: {helpful: {}, honest: {weight: 2.0}}\nprinciples:\n"
    for place, (name, compare) in enumerate(words.items()):
        text += (
            f"  - id: {name}\n    trait: {('helpful', 'honest')[place % 2]}\n"
            f"    compare: {compare}\n    critique: Say what is missing.\n    revise: Add it.\n"
            "    examples:\n      - prompt: Name a fruit.\n        response_a: An apple.\n"
            "        response_b: I will not.\n        preferred: A\n"
        )
    return text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("constitution_tools")
    (root / "old.yaml").write_text(constitution_yaml(WORDS), encoding="utf-8")
    (root / "new.yaml").write_text(constitution_yaml(EDITED), encoding="utf-8")
    samples = [
        Sample(prompt=prompt, index=i, response=text, tokens=4, complete=True, seed=0)
        for n, prompt in enumerate(load_prompts("quickstart", "train")[:PAIRS])
        for i, text in enumerate((f"I do not know, number {n}.", f"Yes, surely: {n} and more."))
    ]
    write_jsonl(root / "samples.jsonl", samples)
    return root


@pytest.fixture(scope="module")
def address(smollm2: Path, folder: Path) -> Iterator[str]:
    flags = ["--max-context-tokens", "1024"]
    served = judge_client(str(smollm2), str(folder / "old.yaml"), folder / "serve.log", flags=flags)
    with served as client:
        yield client.address


def rlaif(*arguments: str | Path, codes: tuple[int, ...] = (0,)) -> str:
    """The output of the command as a user would type it."""
    command = [sys.executable, "-m", "rlaif", *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=300
    )
    assert done.returncode in codes, done.stdout + done.stderr
    return done.stdout


def test_labels_are_made_verified_compared_and_updated_for_less(address: str, folder: Path) -> None:
    old, new, samples = folder / "old.yaml", folder / "new.yaml", folder / "samples.jsonl"
    labels, file = folder / "labels", folder / "labels" / "preferences.parquet"
    server = ("--server", address)

    rlaif("label", samples, "-c", old, "--out", labels, *server)
    made = read_preferences(file)
    assert len(made) == PAIRS
    assert json.loads((labels / "labels.summary.json").read_text())["reads"] == PAIRS * 4 * 2

    rlaif("labels", "verify", labels, "--offline", "-c", old)
    rlaif("labels", "verify", labels, "--sample", "3", "-c", old, *server)
    assert "brief" in rlaif("labels", "show", labels, made[0].id)

    diff = json.loads(rlaif("constitution", "diff", old, new, "--labels", file, "--json", *server))
    assert diff["reads_wanted"] == diff["usage"]["reads"] == PAIRS * 2
    assert diff["reads_of_a_full_relabel"] == PAIRS * 4 * 2

    rlaif("label", samples, "--update", "-c", new, "--from", old, "--out", labels, *server)
    again = read_preferences(file)
    assert {label.id for label in again} == {label.id for label in made}
    digests = {json.loads(label.receipt)["constitution_sha256"] for label in (*made, *again)}
    assert len(digests) == 2
    rlaif("labels", "verify", labels, "--offline", "-c", new)

    ablated = json.loads(rlaif("constitution", "ablate", new, "--labels", file, "--json"))
    assert {row["principle_id"] for row in ablated["principles"]} == set(EDITED)


def test_examples_run_against_the_real_judge(address: str, folder: Path) -> None:
    report = folder / "out.xml"
    test = ("constitution", "test", folder / "old.yaml", "--json", "--junit", report)
    results = json.loads(rlaif(*test, "--server", address, codes=(0, 1)))  # this judge is at chance
    assert len(results["examples"]) == len(WORDS)
    assert all(0.0 < example["prob"] < 1.0 for example in results["examples"])
    assert report.read_text(encoding="utf-8").count("<testcase") == len(WORDS)


def test_one_response_is_scored_and_revised_by_the_real_judge(address: str, folder: Path) -> None:
    server = ("--server", address, "-c", "four", "--json")
    scored = json.loads(rlaif("judge", "score", "Name a fruit.", "An apple.", *server))
    assert -1.0 <= scored["score"] <= 1.0
    written = json.loads(rlaif("judge", "critique", "Name a fruit.", "A stone.", *server))
    assert written["principle_id"] in WORDS
    assert written["text"]
    shown = json.loads(rlaif("judge", "preview", "Name a fruit.", "An apple.", "A stone.", *server))
    assert len(shown) == 4 * 2
