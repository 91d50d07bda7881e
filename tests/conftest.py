"""Fixtures every test may use. Real models are fetched once into the user's cache."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from tests.postgres import database, postgres

__all__ = ["database", "postgres"]  # fixtures of tests/postgres.py

settings.register_profile("rlaif", deadline=None)  # a busy machine is no failure
settings.load_profile("rlaif")

os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session", autouse=True)
def _own_store(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Servers of the tests keep their reads apart: else a second run would compute nothing."""
    os.environ["RLAIF_STORE"] = str(tmp_path_factory.mktemp("store") / "reads.sqlite")


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of the real SmolLM2-135M-Instruct, fetched if this machine lacks it."""
    from rlaif import models

    return models.fetch("smollm2-135m")
