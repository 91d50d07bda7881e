"""Constitutions that come with a request, as YAML: parsed off the event loop, once per text."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections import OrderedDict
from collections.abc import Sequence

from constitution.errors import ConstitutionError, Diagnostic
from constitution.schema import Constitution
from judge_service.errors import InvalidRequest, NotAllowed

FIELD = "constitution.yaml"
BAD = "BAD_CONSTITUTION"
MAX_PROBLEM_BYTES = 1200  # an error carries them three times, and gRPC allows 8 KiB of metadata
KEPT = 32  # parsed constitutions, about 100 KiB each


class InlineConstitutions:
    """Caches the last `KEPT` texts, parsed or with their problems, by digest.

    allowed: whether the server takes any. max_principles: of one constitution; more is a problem.
    """

    def __init__(self, allowed: bool, max_principles: int) -> None:
        self.allowed = allowed
        self._max_principles = max_principles
        self._parsed: OrderedDict[bytes, asyncio.Task[Constitution | str]] = OrderedDict()

    async def find(self, text: str) -> Constitution:
        """The constitution of a YAML text.

        Raises NotAllowed, or InvalidRequest with every problem, its line and its column.
        """
        if not self.allowed:
            why = (
                "this server accepts no constitution sent with a request (inline); name one that "
                "it has, or start it with --allow-inline"
            )
            raise NotAllowed(f"{FIELD}: {why}", reason="INLINE_NOT_ALLOWED", fields={FIELD: why})
        key = hashlib.sha256(text.encode()).digest()
        if key not in self._parsed:
            parsing = asyncio.to_thread(_parse, text, self._max_principles)
            self._parsed[key] = asyncio.create_task(parsing)
        self._parsed.move_to_end(key)
        while len(self._parsed) > KEPT:
            self._parsed.popitem(last=False)
        parsed = await asyncio.shield(self._parsed[key])  # others may wait for it too
        if isinstance(parsed, str):
            raise InvalidRequest(FIELD, parsed, reason=BAD)
        return parsed


def _parse(text: str, max_principles: int) -> Constitution | str:
    """The constitution, or its problems, one per line."""
    try:
        parsed = Constitution.from_yaml(text, FIELD)
    except ConstitutionError as error:
        return _explain_all(error.diagnostics)
    if len(parsed.principles) > max_principles:
        return f"{len(parsed.principles)} principles; this server takes up to {max_principles}"
    return parsed


def _explain_all(problems: Sequence[Diagnostic]) -> str:
    """As many problems as fit into the metadata of an error."""
    lines = [_explain(problem) for problem in problems]
    ends = itertools.accumulate(len(line.encode()) for line in lines)
    shown = sum(end <= MAX_PROBLEM_BYTES for end in ends)
    if shown < len(lines):
        rest = f"{len(lines) - shown} more problems; ValidateConstitution lists all of them"
        return "\n".join([*lines[:shown], rest])
    return "\n".join(lines)


def _explain(problem: Diagnostic) -> str:
    place = f"line {problem.line}, column {problem.column}: " if problem.line else ""
    remedy = f" ({problem.remedy})" if problem.remedy else ""
    return " ".join(f"{place}{problem.message}{remedy}".split())
