"""Two iterations of PPO on a tiny model: MODEL OUT SETTINGS (JSON). Run by `accelerate launch` in
tests/integration/rlaif/test_rollout_workers.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rlaif.algorithms.ppo.train import train
from tests.support.rollouts.ppo_with_workers import QUESTIONS
from tests.support.training.ppo_runs import count_x, small

if __name__ == "__main__":
    settings = json.loads(sys.argv[3])
    train(small(**settings), sys.argv[1], QUESTIONS, count_x, Path(sys.argv[2]))
