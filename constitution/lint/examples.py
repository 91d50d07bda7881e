"""Checks of examples that a bad judge would pass in `rlaif constitution test`, or that conflict.

A judge that always answers A, or always prefers the longer response, must fail. So examples need
both outcomes, and one whose preferred response is the shorter one. TIEs count as neither.
"""

from __future__ import annotations

from collections.abc import Iterator

from constitution.lint.finding import Remark, Severity
from constitution.schema import Constitution, Example, Principle
from constitution.strict_yaml import Path, shorten

_Pair = tuple[tuple[tuple[str, str], ...], frozenset[str]]  # (turns, both responses)


def remarks(constitution: Constitution) -> Iterator[Remark]:
    """Remarks on the examples of each principle, and on pairs of examples."""
    for index, principle in enumerate(constitution.principles):
        path: Path = ("principles", index)
        if principle.examples:
            yield from _examples_as_a_whole(principle, (*path, "examples"))
            yield from _each_example(principle, (*path, "examples"))
        else:
            yield Remark(
                Severity.WARNING,
                "no-example",
                path,
                f"'{principle.id}' has no example",
                "add two under 'examples', one that prefers A and one that prefers B",
            )
    yield from _opposite_outcomes(constitution)


def _examples_as_a_whole(principle: Principle, path: Path) -> Iterator[Remark]:
    missing = {"A", "B"} - {example.preferred for example in principle.examples}
    if missing:
        yield Remark(
            Severity.WARNING,
            "one-sided-examples",
            path,
            f"no example of '{principle.id}' prefers {' or '.join(sorted(missing))}",
            "add one: a judge that always gives the same answer would pass",
        )
    if len(principle.examples) > 1 and _longer_always_wins(principle):
        yield Remark(
            Severity.ADVICE,
            "longer-always-wins",
            path,
            f"in every example of '{principle.id}' the longer response is preferred: "
            "a judge that always picks the longer one would pass",
            "add one whose shorter response is better",
        )


def _longer_always_wins(principle: Principle) -> bool:
    lengths = [
        (len(e.response_a), len(e.response_b))
        if e.preferred == "A"
        else (len(e.response_b), len(e.response_a))
        for e in principle.examples
        if e.preferred != "TIE"
    ]
    return bool(lengths) and all(preferred > other for preferred, other in lengths)


def _each_example(principle: Principle, path: Path) -> Iterator[Remark]:
    for number, example in enumerate(principle.examples):
        if _plain(example.response_a) == _plain(example.response_b):
            yield Remark(
                Severity.WARNING,
                "equal-responses",
                (*path, number, "response_b"),
                f"both responses of example {number + 1} of '{principle.id}' are identical: "
                f"'{shorten(example.response_b)}'",
                "write two that differ in what the principle is about",
            )
        if not principle.applies_to(example.conversation):
            yield Remark(
                Severity.WARNING,
                "example-out-of-scope",
                (*path, number, "prompt"),
                f"the scope of '{principle.id}' excludes its own example {number + 1}: "
                f"'{shorten(example.conversation[-1].content)}'",
                "add a word of the prompt to the scope, or move the example to another principle",
            )


def _opposite_outcomes(constitution: Constitution) -> Iterator[Remark]:
    """Equal pairs with different outcomes: an error within a principle, a hint across two."""
    first_seen: dict[_Pair, tuple[int, int]] = {}  # pair → (principle, example)
    for index, principle in enumerate(constitution.principles):
        for number, example in enumerate(principle.examples):
            pair = _pair(example)
            if pair not in first_seen:
                first_seen[pair] = (index, number)
                continue
            first_index, first_number = first_seen[pair]
            other = constitution.principles[first_index]
            first = other.examples[first_number]
            if _outcome(first) == _outcome(example):
                continue
            # The same principle cannot prefer both; two principles may, but then they cancel out.
            path: Path = ("principles", index, "examples", number, "preferred")
            if first_index == index:
                yield Remark(
                    Severity.WARNING,
                    "contradictory-examples",
                    path,
                    f"examples {first_number + 1} and {number + 1} of '{principle.id}' have the "
                    f"same prompt and responses but prefer different ones: '{_shown(first)}' and "
                    f"'{_shown(example)}'",
                    "delete one, or correct its 'preferred'",
                )
            elif "TIE" not in (first.preferred, example.preferred):
                yield Remark(
                    Severity.ADVICE,
                    "examples-pull-apart",
                    path,
                    f"example {number + 1} of '{principle.id}' and example {first_number + 1} of "
                    f"'{other.id}' prefer opposite responses to the same prompt: "
                    "the two principles vote against each other there",
                    "correct one of them, or let weights or scopes decide which principle wins",
                )


def _pair(example: Example) -> _Pair:
    turns = tuple((turn.role, _plain(turn.content)) for turn in example.conversation)
    return turns, frozenset((_plain(example.response_a), _plain(example.response_b)))


def _outcome(example: Example) -> str | None:
    """The text of the preferred response, regardless of its side; None for a tie."""
    if example.preferred == "TIE":
        return None
    return _plain(example.response_a if example.preferred == "A" else example.response_b)


def _shown(example: Example) -> str:
    return shorten(_outcome(example) or "TIE")


def _plain(text: str) -> str:
    return " ".join(text.split())
