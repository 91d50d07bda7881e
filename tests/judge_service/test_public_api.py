"""`import judge_service`: the public names, imported when they are first used."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest

import judge_service

ALIASES = {"ConstitutionRef", "Conversation", "ConversationLike"}  # of types, which have no name


def test_every_public_name_is_there() -> None:
    for name in judge_service.__all__:
        if name not in ALIASES:
            assert getattr(judge_service, name).__name__ == name
    assert set(judge_service.__all__) <= set(dir(judge_service))
    assert all(get_args(getattr(judge_service, name)) for name in ALIASES)
    with pytest.raises(AttributeError, match="has no attribute 'JudgeServer'"):
        _ = judge_service.JudgeServer  # type: ignore[attr-defined]


def test_importing_the_package_imports_neither_grpc_nor_pydantic() -> None:
    code = (
        "import sys, judge_service\n"
        "print([m for m in ('grpc', 'google.protobuf', 'pydantic', 'torch') if m in sys.modules])\n"
        "judge_service.JudgeClient\n"
        "print([m for m in ('grpc', 'torch', 'transformers', 'vllm') if m in sys.modules])\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == ["[]", "['grpc']"]
