"""Examples that would let a bad judge pass `rlaif constitution test`, or that cannot all hold.

A judge that always answers A, or always the longer response, must fail; so examples need both
outcomes, and a preferred response that is the shorter one. TIEs count as neither.
"""

from __future__ import annotations

from collections.abc import Iterator

from constitution.lint.finding import Remark, Severity
from constitution.schema import Constitution, Example, Principle
from constitution.strict_yaml import Path, shorten

_Question = tuple[tuple[tuple[str, str], ...], frozenset[str]]


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
            "show each outcome once: a judge that always answers the same would pass",
        )
    if len(principle.examples) > 1 and _longer_always_wins(principle):
        yield Remark(
            Severity.ADVICE,
            "longer-always-wins",
            path,
            f"in every example of '{principle.id}' the longer response is preferred: "
            "a judge of length would pass",
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
                f"both responses of example {number + 1} of '{principle.id}' are the same: "
                f"'{shorten(example.response_b)}'",
                "write two that differ in what the principle is about",
            )
        if not principle.applies_to(example.conversation):
            yield Remark(
                Severity.WARNING,
                "example-out-of-scope",
                (*path, number, "prompt"),
                f"the scope of '{principle.id}' does not admit its own example {number + 1}: "
                f"'{shorten(example.conversation[-1].content)}'",
                "add a word of the prompt to the scope, or move the example",
            )


def _opposite_outcomes(constitution: Constitution) -> Iterator[Remark]:
    """The same prompt and pair with another outcome: wrong within a principle, odd across two."""
    told: dict[_Question, tuple[int, int]] = {}
    for index, principle in enumerate(constitution.principles):
        for number, example in enumerate(principle.examples):
            question = _question(example)
            if question not in told:
                told[question] = (index, number)
                continue
            first_index, first_number = told[question]
            other = constitution.principles[first_index]
            before = other.examples[first_number]
            if _outcome(before) == _outcome(example):
                continue
            path: Path = ("principles", index, "examples", number, "preferred")
            if first_index == index:
                yield Remark(
                    Severity.WARNING,
                    "contradictory-examples",
                    path,
                    f"examples {first_number + 1} and {number + 1} of '{principle.id}' ask the "
                    f"same and disagree: '{_shown(before)}' against '{_shown(example)}'",
                    "delete one, or mend what it prefers",
                )
            elif "TIE" not in (before.preferred, example.preferred):
                yield Remark(
                    Severity.ADVICE,
                    "examples-pull-apart",
                    path,
                    f"on the pair of example {first_number + 1} of '{other.id}' example "
                    f"{number + 1} of '{principle.id}' prefers the other response: "
                    "the two principles vote against each other there",
                    "mend one of them, or let weights or scopes say which principle wins",
                )


def _question(example: Example) -> _Question:
    turns = tuple((turn.role, _plain(turn.content)) for turn in example.conversation)
    return turns, frozenset((_plain(example.response_a), _plain(example.response_b)))


def _outcome(example: Example) -> str | None:
    """The preferred response whichever side it stood on; None for a tie."""
    if example.preferred == "TIE":
        return None
    return _plain(example.response_a if example.preferred == "A" else example.response_b)


def _shown(example: Example) -> str:
    return shorten(_outcome(example) or "TIE")


def _plain(text: str) -> str:
    return " ".join(text.split())
