"""Constitutions as values: scopes, examples, consistency checks, look-ups and digests."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from constitution import Constitution, ConstitutionError, Example, Message, Principle, Scope
from constitution.consistency import inconsistencies


def principle(**changes: Any) -> Principle:
    texts = {"compare": "Prefer the calm reply.", "critique": "Find haste.", "revise": "Calm it."}
    return Principle.model_validate({"id": "calm", "trait": "kind", **texts, **changes})


def constitution(**changes: Any) -> Constitution:
    fields: dict[str, Any] = {
        "name": "small",
        "version": "1.0.0",
        "traits": {"kind": {}},
        "principles": [principle()],
    }
    return Constitution.model_validate({**fields, **changes})


def user(text: str) -> tuple[Message, ...]:
    return (Message(role="user", content=text),)


class TestScope:
    @pytest.mark.parametrize(
        ("text", "applies"),
        [
            ("May I RETURN it?", True),
            ("I want my money\n back", True),
            ("returning customers", False),  # whole words only
            ("hello", False),
        ],
    )
    def test_a_principle_applies_if_a_word_or_phrase_is_mentioned(
        self, text: str, applies: bool
    ) -> None:
        scoped = principle(scope=Scope(mentions=("return", "Money back")))
        assert scoped.applies_to(user(text)) is applies

    def test_an_excluded_word_wins_over_a_mentioned_one(self) -> None:
        scoped = principle(scope=Scope(mentions=("refund",), excludes=("fraud",)))
        assert scoped.applies_to(user("a refund please"))
        assert not scoped.applies_to(user("a refund please, it was fraud!"))

    def test_a_scope_looks_at_every_turn(self) -> None:
        turns = (*user("my refund"), Message(role="assistant", content="Which?"), *user("the hat"))
        assert principle(scope=Scope(mentions=("refund",))).applies_to(turns)

    def test_case_accents_and_curly_apostrophes_do_not_matter(self) -> None:
        scoped = principle(scope=Scope(mentions=("don't", "STRASSE", "cafe\u0301")))
        for text in ("I Don\u2019t know", "eine straße", "a café"):
            assert scoped.applies_to(user(text)), text

    def test_words_are_words_and_not_patterns(self) -> None:
        scoped = principle(scope=Scope(mentions=("c++", ".*")))
        assert scoped.applies_to(user("is C++ hard?"))
        assert not scoped.applies_to(user("anything"))

    def test_without_a_scope_a_principle_always_applies(self) -> None:
        assert principle().applies_to(())

    def test_a_scope_without_words_is_an_error(self) -> None:
        with pytest.raises(
            ValidationError, match="remove the scope if the principle always applies"
        ):
            Scope()


class TestExamples:
    def test_a_text_prompt_is_the_users_only_turn(self) -> None:
        example = Example(prompt="Hi", response_a="a", response_b="b", preferred="A")
        assert example.conversation == user("Hi")

    def test_a_prompt_of_messages_is_the_conversation(self) -> None:
        turns = (Message(role="system", content="Be brief."), *user("Hi"))
        example = Example(prompt=turns, response_a="a", response_b="b", preferred="TIE")
        assert example.conversation == turns

    @pytest.mark.parametrize(
        "turns",
        [(), (Message(role="assistant", content="Hi"),), (Message(role="user", content=" "),)],
    )
    def test_a_prompt_must_end_with_a_user_message_that_is_not_blank(
        self, turns: tuple[Message, ...]
    ) -> None:
        with pytest.raises(ValidationError, match="last message"):
            Example(prompt=turns, response_a="a", response_b="b", preferred="A")


class TestConsistency:
    def test_a_duplicate_id_is_an_error(self) -> None:
        with pytest.raises(ValidationError, match="duplicate principle id"):
            constitution(principles=[principle(), principle()])

    def test_an_unknown_trait_is_reported_once_with_the_nearest_name(self) -> None:
        found = list(inconsistencies(["kind"], [("calm", "knd")]))
        assert [(i.path, i.message, i.remedy) for i in found] == [
            (("principles", 0, "trait"), "unknown trait 'knd'", "did you mean 'kind'?")
        ]

    def test_a_trait_that_no_principle_serves_is_an_error(self) -> None:
        with pytest.raises(ValidationError, match="no principle serves the trait 'honest'"):
            constitution(traits={"kind": {}, "honest": {}})

    @pytest.mark.parametrize("weight", [0, -1, 1e-9, 1e9, float("nan"), float("inf"), True, "2"])
    def test_a_weight_is_a_number_in_its_range(self, weight: object) -> None:
        with pytest.raises(ValidationError):
            principle(weight=weight)

    @pytest.mark.parametrize("version", ["1.0.0", "0.0.1", "10.20.30-rc.1+build.5"])
    def test_semantic_versions_are_accepted(self, version: str) -> None:
        assert constitution(version=version).version == version

    @pytest.mark.parametrize(
        "version", ["1", "1.0", "v1.0.0", "1.0.0.0", "01.0.0", "1.0.0-", "\u0661.0.0"]
    )
    def test_other_versions_are_errors(self, version: str) -> None:
        with pytest.raises(ValidationError, match=r"such as 1\.0\.0"):
            constitution(version=version)


class TestLookUps:
    def test_a_principle_is_found_by_its_id(self) -> None:
        assert constitution().principle("calm").trait == "kind"

    def test_an_unknown_id_raises_with_the_nearest_id(self) -> None:
        with pytest.raises(KeyError, match="did you mean 'calm'"):
            constitution().principle("clam")

    def test_trait_weights_are_those_of_the_file(self) -> None:
        assert constitution(traits={"kind": {"weight": 2}}).trait_weights == {"kind": 2.0}

    def test_a_trait_weighs_its_weight_times_those_of_its_principles_in_the_label(self) -> None:
        # helpful 1·(2 + 1 + 1), honest 1·(1 + 1), kind ¾·(1 + 1), safe 1·(1.5 + 1): ten in all
        weights = Constitution.load("customer_support").label_weights
        by_hand = {"helpful": 4.0, "honest": 2.0, "kind": 1.5, "safe": 2.5}
        assert weights == by_hand
        assert weights["helpful"] / sum(weights.values()) == 0.40

    def test_an_unknown_name_raises_with_the_nearest_and_all_names(self) -> None:
        with pytest.raises(ConstitutionError) as caught:
            Constitution.load("customersupport")
        assert str(caught.value) == (
            "customersupport: unknown constitution 'customersupport' "
            "(did you mean 'customer_support'?; available: customer_support, harmless, hhh, "
            "overall)"
        )

    @pytest.mark.parametrize("name", ["", "..", "hhh\0", "HHH", "hhh.YAML "])
    def test_a_name_never_leaves_the_library(self, name: str) -> None:
        with pytest.raises(ConstitutionError):
            Constitution.load(name)


COMPACT = """
{principles: [{revise: Calm it., critique: Find haste., trait: kind, id: calm,
               compare: Prefer the calm reply.}],
 traits: {kind: {weight: 1}}, version: '1.0.0', name: small}
"""
SPACIOUS = """
# A comment.
name: "small"
version: 1.0.0
traits:
  kind:            # another
    weight: 1.0
    description: ""

principles:
  - id: calm
    trait: kind
    compare: >-
      Prefer the
      calm reply.
    critique: |

      Find haste.
    revise: "Calm it."
"""


class TestDigest:
    def test_layout_comments_key_order_and_written_defaults_do_not_change_it(self) -> None:
        compact, spacious = map(Constitution.from_yaml, (COMPACT, SPACIOUS))
        assert compact.digest == spacious.digest == constitution().digest

    def test_it_stays_the_same_from_release_to_release(self) -> None:
        assert constitution().digest == (
            "0e389e19ccf92d42a0515ac840837f1af6f81ff8eb5a19dbf50485a64d8a6918"
        )

    @pytest.mark.parametrize(
        "changes",
        [
            {"name": "other"},
            {"version": "1.0.1"},
            {"description": "More."},
            {"traits": {"kind": {"weight": 1.5}}},
            {"principles": [principle(weight=2)]},
            {"principles": [principle(compare="Prefer the calmer reply.")]},
            {"principles": [principle(critique="Find rush.")]},
            {"principles": [principle(revise="Slow it.")]},
            {"principles": [principle(scope={"mentions": ["x"]})]},
            {"principles": [principle(), principle(id="again")]},
        ],
    )
    def test_any_change_of_meaning_changes_it(self, changes: dict[str, Any]) -> None:
        assert constitution(**changes).digest != constitution().digest

    def test_the_order_of_principles_matters_because_samples_are_drawn_by_index(self) -> None:
        first, second = principle(), principle(id="again")
        one, other = ({"principles": pair} for pair in ([first, second], [second, first]))
        assert constitution(**one).digest != constitution(**other).digest

    def test_a_changed_copy_has_its_own(self) -> None:
        original = constitution()
        before = original.digest
        assert original.model_copy(update={"version": "2.0.0"}).digest != before
        assert original.model_copy().digest == original.digest == before
        assert original.model_copy(update={"version": "2.0.0"}, deep=True).digest != before

    def test_it_is_computed_once_and_is_no_part_of_the_content(self) -> None:
        asked, other = constitution(), constitution()
        assert asked.digest is asked.digest
        assert asked == other
        assert asked.model_dump() == other.model_dump()
        assert asked.model_dump_json() == other.model_dump_json()
        assert pickle.loads(pickle.dumps(asked)).digest == other.digest

    @given(st.permutations(["kind", "honest", "brief"]))
    def test_the_order_of_traits_does_not_matter(self, names: list[str]) -> None:
        principles = [principle(id=f"p-{n}", trait=n) for n in ("brief", "honest", "kind")]
        ordered = constitution(traits={n: {} for n in names}, principles=principles)
        alphabetic = constitution(traits={n: {} for n in sorted(names)}, principles=principles)
        assert ordered.digest == alphabetic.digest
