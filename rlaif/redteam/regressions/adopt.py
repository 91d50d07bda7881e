"""Failures split by family: prompts to train on, and regression tests.

    side(family) = where its prompts are already, in either file
                   tests, if it is named as a test family
                   side_of(family, share), by a digest of its name                  (families.py)

A test whose family was trained on would measure memory. A family therefore is on one side only,
whatever is adopted in which order, and a prompt that the files have on the other side is refused.
The twin of an adopted failure goes with it: to be answered, in training and in tests alike.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from constitution.schema import Message
from rlaif.data.prompt_split import text_of_messages
from rlaif.data.prompts import parse_prompts
from rlaif.data.records import Prompt, RecordError, atomic_open
from rlaif.data.rows import iter_rows, read_text
from rlaif.redteam.families import SHARE_OF_TESTS, TEST_SIDE, TRAIN_SIDE, side_of
from rlaif.redteam.records import Attack, TriedPrompt, Twin, ids, read_tried
from rlaif.redteam.regressions.files import read_regressions, write_regressions
from rlaif.redteam.regressions.records import Regression
from rlaif.redteam.strategies import RedTeamError


@dataclass(frozen=True, slots=True)
class Adopted:
    """What was adopted. sides: family → side, of the failures' families. known: prompts that their
    side has already."""

    train: int
    tests: int
    twins: int
    known: int
    sides: dict[str, str]

    def sentences(self) -> list[str]:
        """What a person should know."""
        lines = [
            f"{self.train} training prompts and {self.tests} tests, {self.twins} of them twins"
            + (f"; {self.known} were there already" if self.known else "")
        ]
        for side in (TRAIN_SIDE, TEST_SIDE):
            names = [family for family, where in self.sides.items() if where == side]
            lines.append(f"families for {side}: {', '.join(names) or 'none'}")
        return lines


@dataclass
class _AdoptionSide:
    """A file's prompts by their text → id, its families, and what is new for it."""

    path: Path
    texts: dict[str, str] = field(default_factory=dict)
    families: set[str] = field(default_factory=set)
    new: list[TriedPrompt] = field(default_factory=list)


def adopt(
    failures: Path,
    train: Path,
    tests: Path,
    *,
    twins: Path | None = None,
    test_families: Sequence[str] = (),
    share: float = SHARE_OF_TESTS,
    skip_known: bool = False,
    write: bool = True,
) -> Adopted:
    """Add the failures (and their twins) to the training prompts and the tests, by family.

    train: JSONL of prompts; tests: regressions, or promptfoo's YAML; both are made if missing and
    only ever added to. test_families: to be tests, where the files have not decided. share: of the
    other families, those that become tests, 0 to 1. skip_known: leaves out failures that are among
    the tests already, which is refused otherwise. write: False for the counts alone. Raises
    RedTeamError and RecordError; then nothing is written.
    """
    require_share(share)
    found = read_tried(failures, Attack)
    if not found:
        raise RedTeamError(f"{failures}: no failures in it; there is nothing to adopt")
    existing = read_regressions(tests) if tests.exists() else []
    rows = [row for _, row in iter_rows(train)] if train.exists() else []
    sides = {TRAIN_SIDE: _train_side(train, rows), TEST_SIDE: _test_side(tests, existing)}
    _require_disjoint(sides, test_families)
    chosen = [*found, *_twins_of(found, twins)]
    where = {
        family: _side(family, sides, test_families, share)
        for family in dict.fromkeys(each.family for each in chosen)
    }
    known_tests = [each for each in found if _text(each.prompt.messages) in sides[TEST_SIDE].texts]
    if known_tests and not skip_known:
        raise RedTeamError(
            f"{failures}: {len(known_tests)} of {len(found)} prompts are in {tests} already: "
            f"{ids(known_tests)}; each failure is adopted once: --skip-known leaves those out"
        )
    known = _sort(chosen, where, sides)
    new = {side: each.new for side, each in sides.items()}
    if write:
        # The tests last: a run killed in between finds the training prompts, and goes on.
        if new[TRAIN_SIDE]:
            _append_prompts(train, rows, new[TRAIN_SIDE])
        if new[TEST_SIDE]:
            write_regressions(tests, [*existing, *map(_regression, new[TEST_SIDE])])
    return Adopted(
        train=len(new[TRAIN_SIDE]),
        tests=len(new[TEST_SIDE]),
        twins=sum(isinstance(each, Twin) for side in new.values() for each in side),
        known=known,
        sides=where,
    )


# ── sides ────────────────────────────────────────────────────────────────────────────────────


def _train_side(path: Path, rows: Sequence[Mapping[str, Any]]) -> _AdoptionSide:
    side = _AdoptionSide(path)
    prompts = parse_prompts((f"{path}: row {n}", row) for n, row in enumerate(rows, start=1))
    for prompt in prompts:
        side.texts.setdefault(_text(prompt.messages), prompt.id)
    side.families = {str(row["family"]) for row in rows if row.get("family")}
    return side


def _test_side(path: Path, tests: Sequence[Regression]) -> _AdoptionSide:
    texts = {_text(test.prompt.messages): test.id for test in tests}
    return _AdoptionSide(path, texts, {test.family for test in tests})


def _require_disjoint(sides: Mapping[str, _AdoptionSide], test_families: Sequence[str]) -> None:
    train, tests = sides[TRAIN_SIDE], sides[TEST_SIDE]
    if both := sorted(train.families & tests.families):
        raise RedTeamError(
            f"families on both sides: {', '.join(both)}, in {train.path} and in {tests.path}; "
            "delete their lines from one of the two"
        )
    if trained := sorted(train.families & set(test_families)):
        raise RedTeamError(
            f"--test-family {', '.join(trained)}: {train.path} has prompts of it, so a test would "
            "measure what was trained on; choose another, or delete those lines"
        )


def require_share(share: float) -> None:
    """Raises RedTeamError for what is not a share of the families."""
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        raise RedTeamError(
            f"invalid share: {share!r}; give the share of attack families that become tests, from "
            "0 (none) to 1 (all)"
        )


def _side(
    family: str,
    sides: Mapping[str, _AdoptionSide],
    test_families: Sequence[str],
    share: float,
) -> str:
    for side, each in sides.items():
        if family in each.families:
            return side
    return TEST_SIDE if family in test_families else side_of(family, share)


def _twins_of(failures: Sequence[Attack], path: Path | None) -> list[Twin]:
    """The twins of the cells that failed."""
    if path is None:
        return []
    cells = {(each.strategy, each.topic) for each in failures}
    return [twin for twin in read_tried(path, Twin) if (twin.strategy, twin.topic) in cells]


def _sort(
    chosen: Sequence[TriedPrompt], where: Mapping[str, str], sides: Mapping[str, _AdoptionSide]
) -> int:
    """Put each prompt on the side of its family; returns how many were there already.

    Raises RedTeamError for prompts that the other side has.
    """
    known = 0
    crossing: list[TriedPrompt] = []
    for each in chosen:
        side = where[each.family]
        other = sides[TEST_SIDE if side == TRAIN_SIDE else TRAIN_SIDE]
        text = _text(each.prompt.messages)
        if text in other.texts:
            crossing.append(each)
        elif text in sides[side].texts:
            known += 1
        else:
            sides[side].texts[text] = each.id
            sides[side].new.append(each)
    if crossing:
        raise RedTeamError(
            f"{len(crossing)} prompts would be trained on and tested: {ids(crossing)}, which "
            f"{sides[TRAIN_SIDE].path} and {sides[TEST_SIDE].path} would both have, up to case and "
            "spacing; delete them from one of the files"
        )
    return known


def _text(messages: Sequence[Message]) -> str:
    """Equal for prompts that differ in case, spacing and system message only."""
    return text_of_messages([message for message in messages if message.role != "system"])


# ── what is written ──────────────────────────────────────────────────────────────────────────


def _append_prompts(
    path: Path, rows: Sequence[Mapping[str, Any]], new: Sequence[TriedPrompt]
) -> None:
    """The file with lines for the new prompts behind its own, which stay as they are.

    They name a split only if the file's own lines do, or it is new: else the rule of `rlaif sample`
    would no longer split the others.
    """
    own = read_text(path) if path.exists() else ""
    if own.lstrip().startswith("["):
        raise RecordError(f"{path}: a JSON array; write one object a line to have prompts added")
    names_split = not rows or any(row.get("split") for row in rows)
    split = {"split": "train"} if names_split else {}
    with atomic_open(path) as out:
        out.write(own if not own or own.endswith("\n") else own + "\n")
        for each in new:
            line = {"id": each.id, "prompt": _prompt(each.prompt), "topic": each.topic,
                    "kind": each.prompt.kind, "family": each.family, **split}  # fmt: skip
            out.write(json.dumps(line, ensure_ascii=False) + "\n")


def _prompt(prompt: Prompt) -> str | list[dict[str, str]]:
    if len(prompt.messages) == 1:
        return prompt.messages[0].content
    return [{"role": m.role, "content": m.content} for m in prompt.messages]


def _regression(tried: TriedPrompt) -> Regression:
    return Regression(
        id=tried.id,
        family=tried.family,
        strategy=tried.strategy,
        topic=tried.topic,
        expects="answer" if isinstance(tried, Twin) else "refusal",
        prompt=tried.prompt,
        receipt=tried.receipt if isinstance(tried, Attack) else None,
    )
