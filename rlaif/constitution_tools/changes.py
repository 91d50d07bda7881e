"""The changes between two constitutions, principle by principle, in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from constitution.schema import Constitution, Principle


@dataclass(frozen=True, slots=True)
class PrincipleChange:
    """One change of a principle or trait: a short description, with the old and new value."""

    name: str  # of the principle, or "trait NAME"
    what: str  # JSON reports contain it: scripts may match it
    old: str = ""
    new: str = ""


def list_changes(old: Constitution, new: Constitution) -> tuple[PrincipleChange, ...]:
    """All changes, principles before traits; those that do not affect labels say so."""
    return (*_principle_changes(old, new), *_trait_changes(old, new))


def _principle_changes(old: Constitution, new: Constitution) -> Iterator[PrincipleChange]:
    before = {principle.id: principle for principle in old.principles}
    after = {principle.id: principle for principle in new.principles}
    for name, removed in before.items():
        if name not in after:
            yield PrincipleChange(name, "removed", old=removed.compare)
    for name, current in after.items():
        previous = before.get(name)
        if previous is None:
            yield PrincipleChange(name, "added", new=current.compare)
        else:
            yield from _edits(name, previous, current)


def _edits(name: str, old: Principle, new: Principle) -> Iterator[PrincipleChange]:
    if old.compare != new.compare:
        yield PrincipleChange(name, "reworded", old.compare, new.compare)
    if old.weight != new.weight:
        yield PrincipleChange(name, "weighed differently", f"{old.weight:g}", f"{new.weight:g}")
    if old.scope != new.scope:
        yield PrincipleChange(name, "scoped differently", _scope(old), _scope(new))
    if old.trait != new.trait:
        yield PrincipleChange(name, "moved to another trait", old.trait, new.trait)
    other = [f for f in ("critique", "revise", "examples") if getattr(old, f) != getattr(new, f)]
    if other:
        yield PrincipleChange(name, f"{' and '.join(other)} changed: no label depends on it")


def _scope(principle: Principle) -> str:
    if principle.scope is None:
        return "always"
    lists = (("mentions", principle.scope.mentions), ("excludes", principle.scope.excludes))
    return "; ".join(f"{name} {', '.join(words)}" for name, words in lists if words)


def _trait_changes(old: Constitution, new: Constitution) -> Iterator[PrincipleChange]:
    before, after = old.trait_weights, new.trait_weights
    for name in sorted({*before, *after}):
        previous, current = before.get(name), after.get(name)
        if previous is None or current is None:
            yield PrincipleChange(f"trait {name}", "removed" if current is None else "added")
        elif previous != current:
            weights = f"{previous:g}", f"{current:g}"
            yield PrincipleChange(f"trait {name}", "weighed differently", *weights)
