"""Fixtures: a random Llama of 50 000 weights, a byte-level tokenizer, pairs and prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from constitution.schema import Message
from rlaif.data.records import Preference, Prompt
from tests.support.training.pairs import preference
from tests.support.training.tiny_model import save_tiny_model


@pytest.fixture(scope="session")
def make_tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """make_tiny_model(pad="<pad>", template=CHAT_TEMPLATE) → the folder of a tiny chat model."""

    def make(**variation: Any) -> str:
        return save_tiny_model(tmp_path_factory.mktemp("tiny"), **variation)

    return make


@pytest.fixture(scope="session")
def tiny_model(make_tiny_model: Callable[..., str]) -> str:
    """The folder of a tiny chat model with random weights; its pad token is not its eos."""
    return make_tiny_model()


@pytest.fixture(autouse=True)
def one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run tiny models on one thread: on a busy machine, waiting threads cost a factor of 100."""
    if "make_tiny_model" not in request.fixturenames:
        yield
        return
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def polite_pairs() -> list[Preference]:
    """Eight pairs whose better response says please: a set small enough to memorize."""
    return [
        preference(i, f"Yes, {i} please.", f"No {i}!" + "!" * (i % 3), traits={"manners": 0.95})
        for i in range(8)
    ]


@pytest.fixture
def questions() -> list[Prompt]:
    return [
        Prompt(id=f"q{i}", messages=(Message(role="user", content="Say " + "x" * i),))
        for i in range(1, 7)
    ]
