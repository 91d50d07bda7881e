"""`--fix`: what is certain is repaired, and not a byte more."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from constitution import Constitution, ConstitutionError
from constitution.lint import lint_text
from constitution.lint.finding import Edit
from constitution.lint.fix import diff, fix, texts_differ
from constitution.lint.repairs import apply_edits
from constitution.loader import library_names, read_source
from tests.support.constitutions import comparing, constitution, principle

CLEAN = """\
name: small  # the name
version: 1.0.0
traits:
  kind: {description: Kindness}
principles:
  - id: calm
    trait: kind  # two spaces before a comment
    compare: Prefer the reply whose greeting is calm.
    critique: Find what is missing.
    revise: Add it.
    examples:
      - {prompt: Hi, response_a: A longer greeting., response_b: Hello., preferred: B}
      - {prompt: Hey, response_a: A longer greeting., response_b: Hello., preferred: A}
"""
COMPARE = "Prefer the reply whose greeting is calm."


def fixed(old: str, new: str) -> str:
    """The repaired text, after `old` in the clean text was replaced by `new`."""
    assert CLEAN.count(old) == 1
    return fix(CLEAN.replace(old, new), "c.yaml").text


def repaired_rules(text: str) -> list[str]:
    return [finding.rule for finding in fix(text, "c.yaml").repaired]


def test_a_clean_text_stays_as_it_is() -> None:
    assert lint_text(CLEAN) == []
    assert fix(CLEAN, "c.yaml").text == CLEAN


@pytest.mark.parametrize("name", library_names())
def test_shipped_constitutions_need_no_repair(name: str) -> None:
    text, source = read_source(name)
    assert fix(text, source).text == text


# --- files that load -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "repaired"),
    [
        ("Prefer  the reply whose   greeting is calm.", COMPARE),
        ("Prefer the reply whose greeting is calm", COMPARE),
        ("Prefer the reply  whose greeting is calm  # so", f"{COMPARE}  # so"),
        ('"Prefer the  reply: calm"', '"Prefer the reply: calm."'),
        ("'Prefer the  reply: calm '", "'Prefer the reply: calm. '"),
        ("Prefer the\n      calm  one\n      to Hi", "Prefer the\n      calm one\n      to Hi."),
        (">-\n      Prefer the   \n      calm reply", ">-\n      Prefer the\n      calm reply."),
        (">  # as\n      Prefer the  calm one.", ">  # as\n      Prefer the calm one."),
        ("|\n      Prefer the  calm one\n      - so", "|\n      Prefer the calm one\n      - so"),
    ],
)  # fmt: skip
def test_spaces_and_final_periods_are_repaired_in_every_style(written: str, repaired: str) -> None:
    assert fixed(COMPARE, written) == CLEAN.replace(COMPARE, repaired)


@pytest.mark.parametrize(
    "written",
    [
        "Prefer the reply.  It is calmer.",  # two spaces after a sentence
        'Prefer the reply that says "so  so".',  # quoted wording
        "Prefer the reply whose greeting is\tcalm.",
        '"Prefer the calm\\x20 reply."',  # an escape
        "冷静な返答を 選ぶ こと",
        "|\n      Prefer the calm reply:\n      - so",
    ],
)
def test_what_may_be_meant_is_left_alone(written: str) -> None:
    text = CLEAN.replace(COMPARE, written)
    assert fix(text, "c.yaml").text == text


def test_a_repair_that_would_change_quoted_wording_too_is_not_made() -> None:
    text = CLEAN.replace(COMPARE, 'Prefer  the reply that says "so  so".')
    outcome = fix(text, "c.yaml")
    assert outcome.text == text
    assert [finding.rule for finding in outcome.remaining] == ["doubled-space"]


def test_an_escaped_space_at_a_line_end_stays() -> None:
    text = CLEAN.replace(COMPARE, '"Prefer the calm\\ \n      reply."')
    assert " \n" in text
    assert fix(text, "c.yaml").text == text


def test_texts_that_the_judge_does_not_read_are_left_alone() -> None:
    text = CLEAN.replace("Hello., preferred: B", "Hello  you, preferred: B")
    assert fix(text, "c.yaml").text == text


def test_spaces_at_line_ends_go_except_where_they_may_be_content() -> None:
    literal = "|\n      Prefer the calm one.  \n      \n      Or so."
    text = CLEAN.replace(COMPARE, literal)
    text = text.replace("traits:\n", "traits: \t\n").replace("# the name", "# the name  ")
    expected = CLEAN.replace(COMPARE, literal)
    assert fix(text, "c.yaml").text == expected
    assert repaired_rules(text) == ["trailing-space"]


def test_a_finding_about_line_ends_counts_the_lines_and_points_to_the_first() -> None:
    text = CLEAN.replace("version: 1.0.0\n", "version: 1.0.0  \n").replace(
        "traits:\n", "traits: \n"
    )
    (found,) = lint_text(text)
    assert (found.rule, found.line, found.column, found.end_column) == ("trailing-space", 2, 15, 17)
    assert "2 lines" in found.message


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_line_breaks_and_the_byte_order_mark_are_kept(start: str, newline: str) -> None:
    text = start + CLEAN.replace("version: 1.0.0\n", "version: 1.0.0 \n").replace("\n", newline)
    text = text.replace("is calm.", "is calm")
    assert fix(text, "c.yaml").text == start + CLEAN.replace("\n", newline)


# --- files that do not load ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "repaired"),
    [
        ("name: small", "Name: small", "name: small"),
        ("name: small", "name: Small", "name: small"),
        ("name: small", "name: 'Small'", "name: 'small'"),
        ("version: 1.0.0", "version: 1.0", 'version: "1.0.0"'),
        ("version: 1.0.0", "version: 2", 'version: "2.0.0"'),
        ("id: calm", "ID: Calm", "id: calm"),
        ("id: calm", "id: no", 'id: "no"'),
        ("trait: kind", "trait: KIND", "trait: kind"),
        ("  kind: {", "  Kind: {", "  kind: {"),
        ("critique: Find what is missing.", "critique: yes", 'critique: "yes"'),
        ("prompt: Hey", "prompt: 2024-05-01", 'prompt: "2024-05-01"'),
        ("preferred: A}", "preferred: a}", "preferred: A}"),
        ("preferred: A}", 'preferred: "tie"}', 'preferred: "TIE"}'),
        ("prompt: Hey, response_a", "prompt: Hey, response-a", "prompt: Hey, response_a"),
        ("prompt: Hey, response_a", "prompt: Hey, Response A", "prompt: Hey, response_a"),
        ("{description", '{weight: "1.5", description', "{weight: 1.5, description"),
        ("prompt: Hey,", "prompt: [{role: User, content: 1}],",
         'prompt: [{role: user, content: "1"}],'),
        ("trait: kind", "trait: kind\n    scope: {Mentions: [on, hi]}",
         'trait: kind\n    scope: {mentions: ["on", hi]}'),
    ],
)  # fmt: skip
def test_a_certain_spelling_is_repaired(old: str, new: str, repaired: str) -> None:
    with pytest.raises(ConstitutionError):
        Constitution.from_yaml(CLEAN.replace(old, new))
    assert fixed(old, new) == CLEAN.replace(old, repaired)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("critique:", "critque:"),  # a guess, however likely
        ("name: small", "name: my rules"),
        ("version: 1.0.0", "version: 1.0.x"),
        (COMPARE, ""),
        (COMPARE, "[a]"),
        (COMPARE, "[no]"),
        ("preferred: A}", "preferred: C}"),
        ("{description", '{weight: "heavy", description'),
        ("{description", '{weight: "0", description'),
        ("critique: Find", "Critique: So.\n    CRITIQUE: Find"),  # which of the two?
        ("name: small", "name: &a small"),
        ("name: small", "name: ["),
    ],
)
def test_what_needs_a_guess_is_left_as_it_is(old: str, new: str) -> None:
    text = CLEAN.replace(old, new, 1)
    with pytest.raises(ConstitutionError):
        Constitution.from_yaml(text)
    outcome = fix(text, "c.yaml")
    assert outcome.text == text
    assert outcome.remaining


def test_ids_and_traits_do_not_become_equal() -> None:
    twice = CLEAN + CLEAN[CLEAN.index("  - id: calm") :].replace("id: calm", "id: Calm")
    assert "id: Calm" in fix(twice, "c.yaml").text
    traits = CLEAN.replace("  kind: {", "  Kind: {description: Also}\n  kind: {")
    assert "  Kind: {" in fix(traits, "c.yaml").text
    both = CLEAN.replace("  kind: {", "  Kind: {description: Also}\n  KIND: {")
    assert fix(both, "c.yaml").text == both


def test_a_second_value_of_a_key_is_not_repaired() -> None:
    twice = CLEAN + "    examples:\n      - {Prompt: no, preferred: a}\n"
    outcome = fix(twice, "c.yaml")
    assert outcome.text == twice
    assert "duplicate key 'examples'" in outcome.remaining[0].message


def test_after_the_errors_are_repaired_the_rest_is_checked_and_repaired() -> None:
    text = CLEAN.replace("version: 1.0.0", "version: 1.0").replace("Add it.", "Add what lacks")
    outcome = fix(text, "c.yaml")
    assert [finding.rule for finding in outcome.repaired] == ["schema", "no-final-period"]
    assert outcome.remaining == ()
    assert "revise: Add what lacks.\n" in outcome.text


def test_many_repairs_are_made_at_once_though_one_is_in_doubt() -> None:
    texts = [f'"Prefer the  reply whose greeting is number {n}"' for n in range(200)]
    texts[77] = '"Prefer\\x20 the reply whose greeting is number 77."'
    principles = (
        f"  - {{id: p{n}, trait: kind, compare: {text}, critique: Find it., revise: Add it.}}\n"
        for n, text in enumerate(texts)
    )
    outcome = fix(CLEAN[: CLEAN.index("  - id")] + "".join(principles), "c.yaml")
    repaired = Counter(finding.rule for finding in outcome.repaired)
    assert repaired == {"doubled-space": 199, "no-final-period": 199}
    assert [f.path[1] for f in outcome.remaining if f.rule == "doubled-space"] == [77]


# --- any file ------------------------------------------------------------------------------------

_PIECES = st.sampled_from(
    ["prefer", "  ", " ", "\t", "it", '"', "'", ".", "\n", "# x", ": ", "é", "漢"]
)
_TEXTS = st.lists(_PIECES, min_size=1, max_size=12).map("".join).filter(str.strip)


def without_slips(target: Constitution) -> str:
    """The constitution as JSON, without runs of spaces and final periods."""
    return " ".join(target.model_dump_json().replace("\\t", " ").split()).replace('."', '"')


@settings(max_examples=80)
@given(st.lists(_TEXTS, min_size=1, max_size=3), st.sampled_from([None, "|", ">", '"', "'"]))
def test_a_repair_never_changes_more_than_spaces_and_a_period(
    texts: list[str], style: str | None
) -> None:
    data = comparing(*["x"] * len(texts)).model_dump(mode="json", exclude_none=True)
    for part, text in zip(data["principles"], texts, strict=True):
        part["compare"] = text
    written = yaml.safe_dump(data, allow_unicode=True, default_style=style, width=30)
    try:
        before = Constitution.from_yaml(written)
    except ConstitutionError:  # such as a weight in quotes
        return
    outcome = fix(written, "c.yaml")
    assert without_slips(Constitution.from_yaml(outcome.text)) == without_slips(before)
    assert fix(outcome.text, "c.yaml").text == outcome.text


@settings(max_examples=60)
@given(st.data())
def test_a_damaged_file_is_repaired_only_where_its_findings_say_so(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(CLEAN)))
    end = data.draw(st.integers(start, min(len(CLEAN), start + 20)))
    text = CLEAN[:start] + data.draw(_TEXTS) + CLEAN[end:]
    outcome = fix(text, "c.yaml")
    assert bool(outcome.repaired) == (outcome.text != text)
    assert [f for f in outcome.remaining if f.edits] == []


# --- edits and diffs -----------------------------------------------------------------------------


def test_edits_are_applied_to_the_text_as_it_was() -> None:
    edits = [Edit(0, 1, "A"), Edit(3, 3, "!"), Edit(1, 2, "")]
    assert apply_edits("abc", edits) == "Ac!"
    with pytest.raises(ValueError, match="overlap"):
        apply_edits("abc", [Edit(0, 2, "x"), Edit(1, 3, "y")])


def test_the_diff_shows_the_lines_that_changed() -> None:
    lines = diff(CLEAN, CLEAN.replace("Add it.", "Add that."), "c.yaml")
    assert lines[:2] == ["--- c.yaml", "+++ c.yaml (repaired)"]
    assert [line for line in lines[2:] if line[0] in "+-"] == [
        "-    revise: Add it.",
        "+    revise: Add that.",
    ]
    assert diff(CLEAN, CLEAN, "c.yaml") == []


def test_only_changes_that_labels_depend_on_count_as_changed_texts() -> None:
    assert texts_differ(CLEAN, CLEAN.replace("Add it.", "Add that."))
    assert not texts_differ(CLEAN, CLEAN + "# a comment\n")
    assert not texts_differ("name: [", CLEAN)


def test_a_constitution_without_a_text_has_findings_without_edits(tmp_path: Path) -> None:
    from constitution.lint import lint

    (found,) = lint(constitution(principle(revise="Add what is missing")))
    assert (found.rule, found.edits, found.line) == ("no-final-period", (), 0)
    assert [f.edits for f in lint(tmp_path / "absent.yaml")] == [()]
