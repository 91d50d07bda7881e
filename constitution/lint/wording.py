"""Checks of the wording of each compare text: can a judge decide by it from two replies?

criteria.py checks whether a text names a criterion; this module checks how it does.
Most rules are one narrow pattern with its remedy, in `_PATTERNS`. Text in double quotes is quoted
wording rather than the author's own, and is ignored. Every pattern needs English words to match, so
texts in other languages get no remarks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from constitution.lint import criteria
from constitution.lint.finding import Remark, Severity
from constitution.schema import Constitution, Principle
from constitution.strict_yaml import Path, shorten

MAX_WORDS = 80
MAX_CHARACTERS = 500  # for scripts that put no spaces between words
READ_CHARACTERS = 10_000  # checked of each text; a longer one gets `compare-too-long` anyway

_QUOTED = re.compile(r'"[^"]*"|\u201c[^\u201c\u201d]*\u201d')
_JOINT = re.compile(r"\b(?:and|as well as|also|plus)\b", re.IGNORECASE)
_JOINTS = 3  # so many in one text join four things or more
_PREFERS = re.compile(r"\b(?:prefer|choose)\b", re.IGNORECASE)
_QUALITIES = re.compile(  # is clear, short, warm and honest
    r"\b(?:is|are|be|being|stays?|both|more|most)(?:\s+[\w-]+\s*,){2,12}\s*[\w-]+\s*,?\s+and\s+"
    r"[\w-]+",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(  # only a TODO in place of a text counts: texts may be about TODOs
    r"\A\W*(?:TODO|FIXME|TBD|XXX)\b|\b(?:TODO|FIXME|TBD|XXX):|[\[<{(](?:TODO|FIXME|TBD|XXX)\b"
    r"|[\[<{](?:insert|your|describe|fill in)\b[^\[\]<>{}]{0,80}[\]>}]|\b[Ll]orem ipsum\b"
    r"|\A(?:\.{2,}|\u2026)\Z",
)
_CONDITION = re.compile(r"\A\W*(?:when|if|on|for|where|in)\b([^,;:.]{3,200}),", re.IGNORECASE)
_ANY_TOPIC = re.compile(  # words of a condition that do not name a topic
    r"about|answer|asked|asks|cases?|conversation|customer|does|have|matters?|person|prompt"
    r"|questions?|reply|requests?|somebody|someone|something|speaks|talks|that|their|there|they"
    r"|topics?|user|wants|what|when|where|which|with|your",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class _Pattern:
    """A rule that is one regular expression; its message has fields `{id}` and `{found}`."""

    severity: Severity
    rule: str
    pattern: re.Pattern[str]
    message: str
    remedy: str


_LONGER = r"(?:longer|longest|lengthier|shorter|shortest)"
_THING = r"(?:repl(?:y|ies)|responses?|answers?|comments?|texts?|one)"
_NEGATION = r"(?:not|never|cannot|\w+n't|neither|without|hardly)"
_UNKIND = (  # words that contain a negation
    r"(?:un(?:kind|helpful|true|clear|friendly|safe|fair|necessary|likely|related|reasonable)"
    r"|dishonest|disrespectful|impolite|inaccurate|incorrect|inappropriate|irrelevant|incomplete)"
)
_PATTERNS = (
    _Pattern(
        Severity.WARNING,
        "names-position",
        re.compile(
            r"\b(?i:(?:first|second|former|latter)\s+(?:reply|response|option|candidate)"
            r"|(?:the\s+(?:former|latter))\b)"
            r"|\b(?i:reply|response|answer|option|candidate|assistant)\s+\(?[AB]\b(?!['-])"
            r"|\b[AB]\s+(?:over|rather than|instead of)\s+[AB]\b"
            r"|\b[Pp]refer\s+[AB]\b(?!['-])"
        ),
        "'{id}' refers to '{found}': the judge reads both orders, so positions mean nothing",
        "say what the preferred reply does; do not mention A, B, first or second",
    ),
    _Pattern(
        Severity.WARNING,
        "names-length",
        re.compile(
            rf"(?<!\bno )(?<!\bany )\b{_LONGER}\s+{_THING}\b"
            rf"|\b(?:{_THING}|that|which|it)\s+(?:is|are)\s+(?:(?:much|far|always)\s+)?{_LONGER}\b"
            r"(?!\s+than\s+(?:needed|necessary|asked|requested))"
            rf"|\b{_THING}\s+(?:with|has|of)\s+(?:the\s+)?(?:more|fewer|most|fewest)\s+words\b",
            re.IGNORECASE,
        ),
        "'{id}' asks for a length ('{found}'), which a judge can apply without reading",
        "say what the words are for: 'without padding', 'explains each step'",
    ),
    _Pattern(
        Severity.ADVICE,
        "double-negation",
        re.compile(
            rf"\b{_NEGATION}(?:\s+(?!(?:and|but|or|nor|only)\b)[\w-]+){{0,2}}\s+"
            r"(?:not|never|without|nothing|nobody|fails?\s+to|lacks?|omits?|omit)\b"
            rf"|\b(?:not|never|\w+n't)\s+(?:be\s+|\w+ly\s+)?{_UNKIND}\b",
            re.IGNORECASE,
        ),
        "'{id}' negates twice: '{found}'",
        "say what the preferred reply does; small judges misread 'not … without'",
    ),
    _Pattern(
        Severity.ADVICE,
        "asks-a-question",
        re.compile(r"[\w)'\u2019]\s*\?"),
        "'{id}' asks a question; the judge's own question follows it",
        "state it: 'Prefer the reply that …'",
    ),
)
_ABSOLUTE = re.compile(
    r"\b(?:never|always|under (?:no|any) circumstances?|in (?:every|any) case|at all times"
    r"|no matter what|without (?:any )?exceptions?|must not|may not ever)\b",
    re.IGNORECASE,
)


def remarks(constitution: Constitution) -> Iterator[Remark]:
    """Remarks on the texts of each principle."""
    for index, principle in enumerate(constitution.principles):
        path: Path = ("principles", index, "compare")
        whole = principle.compare[:READ_CHARACTERS]
        text = _QUOTED.sub(lambda quoted: " " * len(quoted[0]), whole)
        yield from _length(principle, path)
        yield from criteria.remarks(principle, text, path)
        yield from _one_idea(principle, text, path)
        for rule in _PATTERNS:
            if match := rule.pattern.search(text):
                shown = shorten(match[0])
                message = rule.message.format(id=principle.id, found=shown)
                yield Remark(rule.severity, rule.rule, path, message, rule.remedy, match[0])
        yield from _reach(principle, text, path)
        yield from _placeholders(principle, index)


def _length(principle: Principle, path: Path) -> Iterator[Remark]:
    words, characters = len(principle.compare.split()), len(principle.compare)
    if words > MAX_WORDS or characters > MAX_CHARACTERS:
        yield Remark(
            Severity.WARNING,
            "compare-too-long",
            path,
            f"the compare text of '{principle.id}' has {words} words ({characters} characters), "
            "and the judge reads it twice for every pair",
            f"keep it under {MAX_WORDS} words and {MAX_CHARACTERS} characters: one idea; "
            "move the rest to other principles",
        )


def _one_idea(principle: Principle, text: str, path: Path) -> Iterator[Remark]:
    joints, qualities = len(_JOINT.findall(text)), _QUALITIES.search(text)
    verbs = len(_PREFERS.findall(text))
    if joints >= _JOINTS or qualities or verbs > 1:
        if qualities:
            what = f"lists several qualities: '{shorten(qualities[0], 60)}'"
        elif verbs > 1:
            what = f"states {verbs} preferences"
        else:
            what = f"joins {joints + 1} things with 'and'"
        yield Remark(
            Severity.ADVICE,
            "several-criteria",
            path,
            f"'{principle.id}' {what}; a reply may meet one and miss another",
            "split it into one principle each, so that each has its own vote and weight",
            qualities[0] if qualities else "",
        )


def _reach(principle: Principle, text: str, path: Path) -> Iterator[Remark]:
    """Remarks on absolutes without limits, and on topics that a scope could name."""
    condition = _CONDITION.match(text)
    if principle.scope is not None:
        return
    if (absolute := _ABSOLUTE.search(text)) and not principle.examples and not condition:
        yield Remark(
            Severity.WARNING,
            "unscoped-absolute",
            path,
            f"'{principle.id}' says '{absolute[0]}' about every conversation, and no example shows "
            "what it means",
            "add a 'scope', a 'When …,' or examples, or remove the absolute",
            absolute[0],
        )
    topics = _topics(principle, condition[1]) if condition else []
    if topics:
        yield Remark(
            Severity.ADVICE,
            "topic-without-scope",
            path,
            f"'{principle.id}' is about '{topics[0]}', but is read for every pair",
            f"add 'scope: {{mentions: [{topics[0]}]}}', so that other pairs cost no reads",
            topics[0],
        )


def _topics(principle: Principle, condition: str) -> list[str]:
    """Words of the condition that the prompts of all examples (two or more) contain too."""
    if len(principle.examples) < 2:
        return []
    prompts = [
        set(re.findall(r"\w+", " ".join(m.content for m in example.conversation).casefold()))
        for example in principle.examples
    ]
    words = [w for w in re.findall(r"\w{4,}", condition) if not _ANY_TOPIC.fullmatch(w)]
    return [word for word in words if all(word.casefold() in prompt for prompt in prompts)]


def _placeholders(principle: Principle, index: int) -> Iterator[Remark]:
    for key in ("compare", "critique", "revise"):
        text: str = getattr(principle, key)
        if match := _PLACEHOLDER.search(text[:READ_CHARACTERS]):
            yield Remark(
                Severity.WARNING,
                "placeholder",
                ("principles", index, key),
                f"the {key} text of '{principle.id}' still contains a placeholder: "
                f"'{shorten(match[0])}'",
                "write the text; the judge reads it literally",
                match[0],
            )
