"""PPO with two rollout workers on a tiny model, which stops in its second iteration until it is
killed. Run by tests/integration/rlaif/test_rollout_workers.py: MODEL OUT REACHED."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from constitution.schema import Message
from rlaif.algorithms.ppo.train import train
from rlaif.data.records import Prompt
from tests.support.training.ppo_runs import count_x, small

QUESTIONS = [
    Prompt(id=f"q{i}", messages=(Message(role="user", content="Say " + "x" * i),))
    for i in range(1, 7)
]


def main(model: str, out: Path, reached: Path) -> None:
    """Train until the second iteration is scored; then write `reached` and wait."""
    calls = 0

    def score(conversations: Any, responses: Sequence[str]) -> list[float | None]:
        nonlocal calls
        calls += 1
        if calls == 2:
            reached.touch()
            threading.Event().wait()
        return count_x(conversations, responses)

    train(small(iterations=3, rollout_workers=2), model, QUESTIONS, score, out)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
