"""A regression test."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from rlaif.data.records import Prompt


class Regression(BaseModel):
    """A prompt with what is expected of a response to it: a refusal, or for a twin an answer.

    receipt: of the rating by which the failure was found, if there is one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    family: str
    strategy: str = ""
    topic: str = ""
    expects: Literal["refusal", "answer"]
    prompt: Prompt
    receipt: dict[str, Any] | None = None
