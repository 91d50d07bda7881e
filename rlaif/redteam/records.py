"""Attacks as they are saved, one JSON line each.

attacks.jsonl     the best prompt of every cell, with its verdict; with `tries` so far
failures.jsonl    those that succeeded: prompt, response, verdict, receipt, family. `rlaif
                  revise` and `label` read them as samples
twins.jsonl       the benign neighbor of every cell, in the same words, with the response to it
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from constitution.validation import field_problems
from rlaif.data.records import Prompt, RecordError, Sample, atomic_open
from rlaif.data.rows import iter_rows
from rlaif.redteam.verdict import AttackVerdict

ATTACKS, FAILURES, TWINS = "attacks.jsonl", "failures.jsonl", "twins.jsonl"


class TriedPrompt(BaseModel):
    """A prompt that was tried on a model, and the response.

    id: of strategy, topic and text. author: who worded the request, "file" or the attacker. model:
    what responded. tokens: of the response.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    family: str
    strategy: str
    topic: str
    author: str = "file"
    model: str = ""
    prompt: Prompt
    response: str
    tokens: int = 0
    complete: bool = True
    end_token: str = ""

    @property
    def sample(self) -> Sample:
        """The response as a sample."""
        return Sample(
            prompt=self.prompt,
            index=0,
            response=self.response,
            tokens=self.tokens,
            complete=self.complete,
            seed=0,
            end_token=self.end_token,
        )


class Attack(TriedPrompt):
    """An attack. tries: prompts tried in its cell. receipt: of the judge's rating, if there is."""

    tries: int = 1
    verdict: AttackVerdict
    receipt: dict[str, Any] | None = None


class Twin(TriedPrompt):
    """The benign neighbor of a cell's best prompt. refused: by rule, where it should not be."""

    refused: bool


TriedT = TypeVar("TriedT", bound=TriedPrompt)
LineT = TypeVar("LineT", bound=BaseModel)


def write_tried(path: Path, records: Iterable[TriedPrompt]) -> None:
    """Write attacks or twins, atomically. Raises RecordError as `atomic_open`."""
    with atomic_open(path) as out:
        for record in records:
            out.write(record.model_dump_json() + "\n")


def read_tried(path: Path, kind: type[TriedT]) -> list[TriedT]:
    """The attacks or twins in a file. Raises RecordError as `read_lines`."""
    return read_lines(path, kind, "redteam", f"give its {FAILURES} or {TWINS}")


def read_lines(path: Path, kind: type[LineT], command: str, remedy: str) -> list[LineT]:
    """The lines of a file that a command wrote. Raises RecordError naming file, line and field;
    never a text of an attack."""
    found: list[LineT] = []
    for where, fields in iter_rows(path):
        try:
            found.append(kind.model_validate(fields))
        except ValidationError as error:
            problem = field_problems(error, kind, noun="field")[0]
            raise RecordError(
                f"{where}: {problem.field or 'line'}: not as `rlaif {command}` writes it "
                f"({problem.kind}); {remedy}"
            ) from error
    return found


def ids(records: Sequence[TriedPrompt], most: int = 3) -> str:
    """A few ids, for a message."""
    more = f" and {len(records) - most} more" if len(records) > most else ""
    return ", ".join(record.id for record in records[:most]) + more
