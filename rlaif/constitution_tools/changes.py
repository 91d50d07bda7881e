"""What an edit did to a constitution, principle by principle, in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from constitution.schema import Constitution, Principle


@dataclass(frozen=True, slots=True)
class PrincipleChange:
    """One thing that the edit did to a principle or a trait, in words; texts where they help."""

    name: str  # of the principle, or "trait NAME"
    what: str
    old: str = ""
    new: str = ""


def list_changes(old: Constitution, new: Constitution) -> tuple[PrincipleChange, ...]:
    """Everything that differs and what of it concerns labels, principles before traits."""
    return (*_principle_changes(old, new), *_trait_changes(old, new))


def _principle_changes(old: Constitution, new: Constitution) -> Iterator[PrincipleChange]:
    before = {principle.id: principle for principle in old.principles}
    after = {principle.id: principle for principle in new.principles}
    for name, gone in before.items():
        if name not in after:
            yield PrincipleChange(name, "removed", old=gone.compare)
    for name, now in after.items():
        was = before.get(name)
        if was is None:
            yield PrincipleChange(name, "added", new=now.compare)
            continue
        if was.compare != now.compare:
            yield PrincipleChange(name, "reworded", was.compare, now.compare)
        if was.weight != now.weight:
            yield PrincipleChange(name, "weighed differently", f"{was.weight:g}", f"{now.weight:g}")
        if was.scope != now.scope:
            yield PrincipleChange(name, "scoped differently", _scope(was), _scope(now))
        if was.trait != now.trait:
            yield PrincipleChange(name, "moved to another trait", was.trait, now.trait)
        aside = [
            f for f in ("critique", "revise", "examples") if getattr(was, f) != getattr(now, f)
        ]
        if aside:
            yield PrincipleChange(name, f"{' and '.join(aside)} changed: no label depends on it")


def _scope(principle: Principle) -> str:
    if principle.scope is None:
        return "always"
    lists = (("mentions", principle.scope.mentions), ("excludes", principle.scope.excludes))
    return "; ".join(f"{name} {', '.join(words)}" for name, words in lists if words)


def _trait_changes(old: Constitution, new: Constitution) -> Iterator[PrincipleChange]:
    before, after = old.trait_weights, new.trait_weights
    for name in sorted({*before, *after}):
        was, now = before.get(name), after.get(name)
        if was is None or now is None:
            yield PrincipleChange(f"trait {name}", "removed" if now is None else "added")
        elif was != now:
            yield PrincipleChange(f"trait {name}", "weighed differently", f"{was:g}", f"{now:g}")
