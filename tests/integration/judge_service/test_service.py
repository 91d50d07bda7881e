"""End to end: client -> socket -> `rlaif serve` -> real vLLM -> label."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from judge_service.client.sync import JudgeClient, JudgeRequestError
from judge_service.types import JudgeOptions, Judgment, Unjudged, UnjudgedReason
from rlaif.feedback.client import judge_client
from tests.support.service.serving import comparison, one_principle

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def client(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JudgeClient]:
    """A client to a server that runs as a user would run it."""
    folder = tmp_path_factory.mktemp("serve")
    constitution = one_principle(folder)
    flags = ["--max-context-tokens", "1024"]
    with judge_client(str(smollm2), constitution, folder / "serve.log", flags=flags) as client:
        yield client


def test_a_real_label_comes_over_the_socket(client: JudgeClient) -> None:
    info = client.server_info()
    assert info.model is not None
    assert info.model.engine.startswith("vllm")
    assert info.limits.max_context_tokens == 1024

    options = JudgeOptions(min_label_mass=0.0)
    pair = ("Name a fruit.", "An apple is a fruit.", "I will not.")
    judgment = client.compare(*pair, options=options)
    swapped = client.compare(pair[0], pair[2], pair[1], options=options)
    assert isinstance(judgment, Judgment)
    assert isinstance(swapped, Judgment)
    assert judgment.prob_a + swapped.prob_a == pytest.approx(1.0, abs=1e-6)
    assert judgment.usage.reads == 2
    assert judgment.provenance.model == info.model
    assert judgment.provenance.constitution_sha256 == info.constitutions[0].sha256

    ranking = client.rank("Name a fruit.", ["An apple.", "A stone.", "A pear."], "", options)
    assert sorted(c.index for c in ranking.candidates) == [0, 1, 2]


def test_a_stream_of_real_labels_keeps_bad_items_apart(client: JudgeClient) -> None:
    items = [comparison(str(n)) for n in range(8)]
    items += [comparison("empty", " "), comparison("long", "many words " * 2000)]
    outcomes = dict(client.stream(items, options=JudgeOptions(min_label_mass=0.0)))
    assert len(outcomes) == 10
    empty, long = outcomes["empty"], outcomes["long"]
    assert isinstance(empty, Unjudged)
    assert empty.reason is UnjudgedReason.EMPTY_RESPONSE
    assert isinstance(long, Unjudged)
    assert long.reason is UnjudgedReason.TOO_LONG
    assert sum(isinstance(outcome, Judgment) for outcome in outcomes.values()) == 8
    with pytest.raises(JudgeRequestError, match="response_a"):
        client.compare("Say much.", "many words " * 2000, "No.")


def test_a_second_server_on_the_port_fails_before_it_loads_a_model(
    client: JudgeClient, smollm2: Path
) -> None:
    port = client.address.rpartition(":")[2]
    serve = [sys.executable, "-m", "rlaif", "serve", "--model", str(smollm2), "--port", port]
    process = subprocess.run(
        serve, capture_output=True, text=True, cwd=ROOT, check=False, timeout=300
    )
    assert process.returncode == 1
    assert f"127.0.0.1:{port}" in process.stderr
    assert "--port" in process.stderr
    assert "Traceback" not in process.stderr
