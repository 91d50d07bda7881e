"""The changes between two constitutions, in words."""

from __future__ import annotations

from constitution.schema import Scope
from rlaif.constitution_tools.changes import PrincipleChange, list_changes
from tests.support.feedback.builders import example, make_constitution, principle


def test_every_kind_of_change_is_reported() -> None:
    old = make_constitution(
        principle("gone", trait="kind"),
        principle("words", trait="kind"),
        principle("weight"),
        principle("scope", scope=Scope(excludes=("joke",))),
        principle("moved", trait="kind"),
        principle("aside"),
    )
    new = make_constitution(
        principle("words", trait="kind", compare="Prefer the shorter."),
        principle("weight", weight=2.5),
        principle("scope", scope=Scope(mentions=("refund", "money back"), excludes=("joke",))),
        principle("moved", trait="honest"),
        principle("aside", example(), critique="Where?"),
        principle("fresh"),
        kind=0.5,
    )
    assert list_changes(old, new) == (
        PrincipleChange("gone", "removed", old="Prefer by gone."),
        PrincipleChange("words", "reworded", "Prefer by words.", "Prefer the shorter."),
        PrincipleChange("weight", "weighed differently", "1", "2.5"),
        PrincipleChange(
            "scope", "scoped differently", "excludes joke",
            "mentions refund, money back; excludes joke",
        ),
        PrincipleChange("moved", "moved to another trait", "kind", "honest"),
        PrincipleChange("aside", "critique and examples changed: no label depends on it"),
        PrincipleChange("fresh", "added", new="Prefer by fresh."),
        PrincipleChange("trait honest", "added"),
        PrincipleChange("trait kind", "weighed differently", "1", "0.5"),
    )  # fmt: skip


def test_the_same_constitution_has_no_changes() -> None:
    assert list_changes(make_constitution(principle("p")), make_constitution(principle("p"))) == ()
