"""What a careful editor would say of a constitution that loads, each remark with its remedy.

error     it does not load
warning   it loads, and judges worse than it could
hint      worth a second look
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import StrEnum
from itertools import combinations

from constitution.errors import ConstitutionError, Diagnostic
from constitution.loading import build, read_source
from constitution.schema import Constitution, Principle
from constitution.strict_yaml import Path, Tree, parse

MANY_PRINCIPLES = 4  # from here on, one principle with half the weight or more drowns the others
DROWNING_SHARE = 0.5
LONG_COMPARE = 500  # characters; a small judge reads one idea well, and each read pays for the text
ALIKE = 0.85  # difflib ratio of two compare texts that say the same

_SAYS_NOTHING = re.compile(  # praise and filler; a vague text has no other words
    r"\b(?:a|an|and|answers?|appropriate|bad|be|best|better|between|choose|excellent|favou?r|fine|give"
    r"|good|great|high|higher|in|is|it|more|most|nice|of|one|or|overall|pick|poor|prefer|preferred"
    r"|proper|quality|repl(?:y|ies)|responses?|right|select|suitable|than|that|the|to|two|very|well"
    r"|which|who|with|worse|worst)\b",
    re.IGNORECASE,
)


class Severity(StrEnum):
    ERROR = "error"
    WARNING = "warning"
    HINT = "hint"


@dataclass(frozen=True, slots=True)
class Finding:
    """One remark. Line 0: of a constitution that was not read from a text.

    `code` is stable, for filters; `path` leads to the part, such as ("principles", 2, "compare").
    """

    severity: Severity
    code: str
    source: str
    line: int
    column: int
    message: str
    remedy: str
    path: Path = ()

    def __str__(self) -> str:
        place = f":{self.line}:{self.column}" if self.line else ""
        return f"{self.source}{place}: {self.severity} [{self.code}] {self.message} ({self.remedy})"


@dataclass(frozen=True, slots=True)
class _Remark:
    severity: Severity
    code: str
    path: Path
    message: str
    remedy: str


def lint(target: Constitution | str | os.PathLike[str]) -> list[Finding]:
    """Findings about a constitution, a shipped name or a file, in the order of the text.

    A file that does not load gives findings of severity error, not an exception.
    """
    if isinstance(target, Constitution):
        return [_finding(remark, target.name, 0, 0) for remark in _remarks(target)]
    try:
        text, source = read_source(target)
    except ConstitutionError as error:
        return _refused(error)
    return lint_text(text, source)


def lint_text(text: str, source: str = "<text>") -> list[Finding]:
    """Findings about a YAML text; `source` names it in them."""
    try:
        tree = parse(text, source)
        constitution = build(tree)
    except ConstitutionError as error:
        return _refused(error)
    found = [_placed(remark, tree) for remark in _remarks(constitution)]
    return sorted(found, key=lambda finding: (finding.line, finding.column))


def _refused(error: ConstitutionError) -> list[Finding]:
    def finding(d: Diagnostic) -> Finding:
        return Finding(Severity.ERROR, "schema", d.source, d.line, d.column, d.message, d.remedy)

    return [finding(diagnostic) for diagnostic in error.diagnostics]


def _placed(remark: _Remark, tree: Tree) -> Finding:
    place = tree.place(remark.path)
    return _finding(remark, tree.source, place.line, place.column)


def _finding(remark: _Remark, source: str, line: int, column: int) -> Finding:
    severity, code, path = remark.severity, remark.code, remark.path
    return Finding(severity, code, source, line, column, remark.message, remark.remedy, path)


def _remarks(constitution: Constitution) -> Iterator[_Remark]:
    for check in _CHECKS:
        yield from check(constitution)


def _traits_are_described(constitution: Constitution) -> Iterator[_Remark]:
    for name, trait in constitution.traits.items():
        if not trait.description:
            message = f"the trait '{name}' has no description"
            remedy = "say in a sentence what it means here"
            path: Path = ("traits", name)
            yield _Remark(Severity.HINT, "trait-without-description", path, message, remedy)


def _no_principle_drowns_the_others(constitution: Constitution) -> Iterator[_Remark]:
    """A vote weighs its principle's weight times its trait's."""
    principles = constitution.principles
    weights = [p.weight * constitution.traits[p.trait].weight for p in principles]
    if len(principles) < MANY_PRINCIPLES:
        return
    for index, (principle, weight) in enumerate(zip(principles, weights, strict=True)):
        share = weight / sum(weights)
        if share > DROWNING_SHARE:
            message = (
                f"'{principle.id}' holds {share:.0%} of all the weight: "
                f"the other {len(principles) - 1} principles cannot outvote it"
            )
            remedy = "lower its weight or its trait's"
            path: Path = ("principles", index, "weight")
            yield _Remark(Severity.WARNING, "weight-drowns-others", path, message, remedy)


def _compare_texts_are_short(constitution: Constitution) -> Iterator[_Remark]:
    for index, principle in enumerate(constitution.principles):
        length = len(principle.compare)
        if length > LONG_COMPARE:
            message = f"the compare text of '{principle.id}' has {length} characters"
            remedy = f"keep it under {LONG_COMPARE}: one idea; split the rest into other principles"
            path: Path = ("principles", index, "compare")
            yield _Remark(Severity.WARNING, "compare-too-long", path, message, remedy)


def _compare_texts_are_concrete(constitution: Constitution) -> Iterator[_Remark]:
    for index, principle in enumerate(constitution.principles):
        if not re.search(r"\w", _SAYS_NOTHING.sub("", principle.compare)):
            message = (
                f"the compare text of '{principle.id}' names nothing that a judge can look for"
            )
            remedy = "say what the preferred reply does, such as 'names a concrete next step'"
            path: Path = ("principles", index, "compare")
            yield _Remark(Severity.WARNING, "vague-compare", path, message, remedy)


def _compare_texts_differ(constitution: Constitution) -> Iterator[_Remark]:
    texts = [" ".join(p.compare.casefold().split()) for p in constitution.principles]
    for first, second in combinations(range(len(texts)), 2):
        matcher = SequenceMatcher(None, texts[first], texts[second], autojunk=False)
        bounds = (matcher.real_quick_ratio, matcher.quick_ratio, matcher.ratio)  # cheap ones first
        if all(bound() >= ALIKE for bound in bounds):
            one, other = constitution.principles[first].id, constitution.principles[second].id
            message = f"'{other}' says nearly the same as '{one}'"
            remedy = "merge the two, or say what sets them apart"
            path: Path = ("principles", second, "compare")
            yield _Remark(Severity.WARNING, "near-duplicate", path, message, remedy)


def _examples_show_both_outcomes(constitution: Constitution) -> Iterator[_Remark]:
    for index, principle in enumerate(constitution.principles):
        path: Path = ("principles", index)
        if not principle.examples:
            message = f"'{principle.id}' has no example"
            remedy = "add two under 'examples', one that prefers A and one that prefers B"
            yield _Remark(Severity.WARNING, "no-example", path, message, remedy)
            continue
        missing = {"A", "B"} - {example.preferred for example in principle.examples}
        if missing:
            message = f"no example of '{principle.id}' prefers {' or '.join(sorted(missing))}"
            remedy = "show each outcome once: a judge that always answers the same would pass"
            path = (*path, "examples")
            yield _Remark(Severity.WARNING, "one-sided-examples", path, message, remedy)


def _examples_have_two_responses(constitution: Constitution) -> Iterator[_Remark]:
    for index, principle in enumerate(constitution.principles):
        for number, example in enumerate(principle.examples):
            if example.response_a == example.response_b:
                message = f"both responses of example {number + 1} of '{principle.id}' are the same"
                remedy = "write two that differ in what the principle is about"
                path: Path = ("principles", index, "examples", number, "response_b")
                yield _Remark(Severity.WARNING, "equal-responses", path, message, remedy)


def _longer_is_not_always_better(constitution: Constitution) -> Iterator[_Remark]:
    for index, principle in enumerate(constitution.principles):
        if len(principle.examples) > 1 and _longer_always_wins(principle):
            message = f"in every example of '{principle.id}' the longer response is preferred"
            remedy = "add one whose shorter response is better"
            path: Path = ("principles", index, "examples")
            yield _Remark(Severity.HINT, "longer-always-wins", path, message, remedy)


def _longer_always_wins(principle: Principle) -> bool:
    lengths = [
        (len(e.response_a), len(e.response_b))
        if e.preferred == "A"
        else (len(e.response_b), len(e.response_a))
        for e in principle.examples
        if e.preferred != "TIE"
    ]
    return bool(lengths) and all(preferred > other for preferred, other in lengths)


_CHECKS: tuple[Callable[[Constitution], Iterator[_Remark]], ...] = (
    _traits_are_described,
    _no_principle_drowns_the_others,
    _compare_texts_are_short,
    _compare_texts_are_concrete,
    _compare_texts_differ,
    _examples_show_both_outcomes,
    _examples_have_two_responses,
    _longer_is_not_always_better,
)
