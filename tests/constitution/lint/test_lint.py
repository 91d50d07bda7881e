"""The linter: right positions, no findings for shipped files, no exception on any text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from constitution import Constitution
from constitution.lint import Severity, lint, lint_text, pairs, wording
from constitution.loader import library_names
from tests.support.constitutions import comparing, constitution, example, principle, rules
from tests.support.steps import steps

PAGE = (Path(__file__).parents[3] / "docs" / "constitution.md").read_text(encoding="utf-8")
CODE = Path(__file__).parents[3] / "constitution"


def test_a_careful_constitution_has_no_findings() -> None:
    assert lint(constitution()) == []


@pytest.mark.parametrize("name", library_names())
def test_shipped_constitutions_have_no_findings(name: str) -> None:
    assert [str(finding) for finding in lint(name)] == []


@pytest.mark.parametrize("name", library_names())
def test_in_shipped_examples_neither_length_nor_position_predicts_the_outcome(name: str) -> None:
    examples = [e for p in Constitution.load(name).principles for e in p.examples]
    longer = "".join("A" if len(e.response_a) > len(e.response_b) else "B" for e in examples)
    outcomes = "".join(e.preferred for e in examples)
    right_by_length = sum(a == b for a, b in zip(longer, outcomes, strict=True)) / len(examples)
    assert 0.3 <= right_by_length <= 0.6
    assert abs(outcomes.count("A") - outcomes.count("B")) <= 1


def test_shipped_constitutions_have_the_documented_traits_and_examples() -> None:
    hhh = Constitution.load("hhh")
    assert len(hhh.principles) >= 12
    assert set(hhh.traits) == {"helpful", "honest", "harmless"}
    seed_case = Constitution.load("customer_support").principle("concrete-next-step").examples[0]
    assert "Someone will look into it" in seed_case.response_b
    assert seed_case.preferred == "A"


# --- weights and traits --------------------------------------------------------------------------


def weighing(*weights: float) -> Constitution:
    names = ("calm", "warm", "open", "brief", "merry", "plain")
    named = zip(names[: len(weights)], weights, strict=True)
    return constitution(*(principle(name, weight=weight) for name, weight in named))


def two_traits(weight: float) -> Constitution:
    traits = {name: {"description": "A quality."} for name in ("kind", "safe")}
    principles = [principle("calm"), principle("guarded", trait="safe", weight=weight)]
    return constitution(*principles, traits=traits)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (weighing(3.5, 1, 1, 1), ["weight-drowns-others"]),  # 54 %
        (weighing(3, 1, 1, 1), []),  # exactly half
        (weighing(10, 1, 1), []),  # of three principles one may weigh most
        (weighing(1, 1, 0.02), ["weight-drowned"]),  # 0.99 %
        (weighing(1, 1, 0.021), []),  # 1.04 %
        (two_traits(5), []),
        (two_traits(5.1), ["lopsided-traits"]),
        (constitution(traits={"kind": {}}), ["trait-without-description"]),
    ],
)
def test_weights_and_traits(target: Constitution, expected: list[str]) -> None:
    assert rules(target) == expected


def test_equal_weights_are_never_reported_as_too_small() -> None:
    principles = [principle(f"p{number}", weight=0.001) for number in range(250)]
    assert "weight-drowned" not in rules(constitution(*principles))


def test_a_dominant_weight_is_reported_with_its_trait_and_share() -> None:
    traits = {"kind": {"weight": 2, "description": "Kindness."}}
    others = [principle(name) for name in ("warm", "open", "brief")]
    (found,) = lint(constitution(principle(weight=4.5), *others, traits=traits))
    assert "60% of all the weight (weight 4.5 x trait 2 of 15)" in found.message  # 9 of 9+2+2+2


# --- examples ------------------------------------------------------------------------------------

OTHER = example("A", prompt="Another prompt")
SCOPED = {"scope": {"mentions": ["refund"]}}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"examples": []}, ["no-example"]),
        ({"examples": [example()]}, ["one-sided-examples"]),
        ({"examples": [example(), example("TIE", prompt="Hey")]}, ["one-sided-examples"]),
        ({"examples": [example(), OTHER]}, []),
        ({"examples": [example(), OTHER, example("TIE", response_b="A longer  greeting.")]},
         ["equal-responses"]),
        ({"examples": [OTHER, example("B", response_a="Hi")]}, ["longer-always-wins"]),
        ({"examples": [OTHER, example("B", response_a="Hello!")]}, []),  # as long as the other
        ({"examples": [example(prompt="My refund?"), OTHER], **SCOPED}, ["example-out-of-scope"]),
        ({"examples": [example(prompt="My refund?"), {**OTHER, "prompt": "Refund!"}], **SCOPED},
         []),
        ({"examples": [example("B"), example("A", prompt="Hi ")]}, ["contradictory-examples"]),
        ({"examples": [example("B"), OTHER, example("TIE")]}, ["contradictory-examples"]),
        # the same pair with its sides and its outcome swapped agrees with the first
        ({"examples": [example("B"),
                       example("A", response_a="Hello.", response_b="A longer greeting.")]}, []),
    ],
)  # fmt: skip
def test_examples(changes: dict[str, Any], expected: list[str]) -> None:
    assert rules(constitution(principle(**changes))) == expected


def test_across_principles_opposite_examples_are_advice_and_ties_are_ignored() -> None:
    calm = principle(examples=[example(), OTHER])
    other = example("B", prompt="Another prompt")
    warm = principle("warm", examples=[other, example("A", prompt="A third one")])
    assert rules(constitution(calm, warm)) == ["examples-pull-apart"]
    tied = principle("warm", examples=[example("TIE"), {**OTHER, "prompt": "x"}, example()])
    assert "examples-pull-apart" not in rules(constitution(calm, tied))


# --- positions -----------------------------------------------------------------------------------


def as_yaml(target: Constitution) -> str:
    data = target.model_dump(mode="json", exclude_none=True)
    return yaml.dump(data, sort_keys=False, width=60)


def test_a_finding_in_a_text_has_a_position_and_a_remedy() -> None:
    text = as_yaml(comparing("Prefer the best."))
    line = next(n for n, row in enumerate(text.splitlines(), 1) if "compare:" in row)
    (finding,) = lint_text(text, "c.yaml")
    assert str(finding) == (
        f"c.yaml:{line}:12: warning [vague-compare] the compare text of 'rule-a' names nothing "
        "that a judge can look for: 'Prefer the best.' (say what the preferred reply does, such "
        "as 'names a concrete next step')"
    )


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize(
    "written",
    [
        "Prefer the shorter reply.",
        '"Prefer the shorter reply."',
        ">-\n      Prefer the\n      shorter\n      reply.",
    ],
)
def test_a_finding_about_words_points_to_the_words(written: str, start: str, newline: str) -> None:
    text = as_yaml(comparing("Prefer this."))
    text = start + text.replace("Prefer this.", written).replace("\n", newline)
    (found,) = lint_text(text)
    row = re.split("\r\n|\n", text)[found.line - 1]
    assert found.rule == "names-length"
    assert row[found.column - 1 :].startswith("shorter")


def test_words_written_with_escapes_are_located_at_the_value() -> None:
    text = as_yaml(comparing("Prefer this.")).replace("Prefer this.", '"The \\x73horter reply."')
    (found,) = (f for f in lint_text(text) if f.rule == "names-length")
    assert text.splitlines()[found.line - 1][found.column - 1 :].startswith('"The')


def test_findings_come_in_the_order_of_the_text() -> None:
    target = comparing("Prefer the best.", "Prefer the longer reply.", examples=[], weight=0.5)
    found = lint_text(as_yaml(target))
    assert [f.rule for f in found] == ["no-example", "vague-compare", "no-example", "names-length"]
    assert [f.line for f in found] == sorted(f.line for f in found)


def test_a_file_that_does_not_load_is_a_finding_of_severity_error(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("name: [", encoding="utf-8")
    assert [f.severity for f in lint(file)] == [Severity.ERROR]
    assert [f.rule for f in lint(tmp_path / "absent.yaml")] == ["schema"]
    assert [f.severity for f in lint("no_such_name")] == [Severity.ERROR]


def test_the_docs_list_exactly_the_rules_of_the_linter() -> None:
    modules = "".join(file.read_text(encoding="utf-8") for file in (CODE / "lint").glob("*.py"))
    known = set(re.findall(r'Severity\.\w+,\s+"([a-z-]+)",', modules)) | {"schema"}
    assert len(known) == 31
    table = PAGE[PAGE.index("## Every rule of the linter") :]
    listed = dict(re.findall(r"^\| `([a-z-]+)` (\*?) ?\|", table, re.MULTILINE))
    assert set(listed) == known
    repairable = {"no-final-period", "doubled-space", "trailing-space"}
    assert {rule for rule, mark in listed.items() if mark} == repairable


# --- any text ------------------------------------------------------------------------------------

_PIECES = st.sampled_from(
    ["prefer ", "the ", "reply ", "not ", "without ", "never ", "over ", "A ", "B ", "shorter ",
     "is ", ", ", "and ", "? ", '"', "\u201c", "TODO: ", "when ", "<your ", "[insert ", "{", "}",
     "brief ", "detailed ", "\n", "  ", "\\", "'", "é", "\u2028", "\U0001f600", "漢字", "%", ":"]
)  # fmt: skip
_TEXTS = st.lists(_PIECES, max_size=25).map("".join) | st.text(max_size=40)


@settings(max_examples=60)
@given(st.lists(_TEXTS, min_size=1, max_size=4))
def test_any_compare_text_is_linted_and_findings_point_inside_the_file(texts: list[str]) -> None:
    data = comparing(*["x"] * len(texts)).model_dump(mode="json", exclude_none=True)
    for part, text in zip(data["principles"], texts, strict=True):
        part["compare"] = text
    written = yaml.safe_dump(data, allow_unicode=True)
    rows = re.split("\r\n|[\r\n\x85\u2028\u2029]", written)
    for finding in lint_text(written):
        assert 1 <= finding.line <= len(rows)
        assert 1 <= finding.column <= len(rows[finding.line - 1]) + 1
        assert 1 <= finding.end_line <= len(rows)
        assert 1 <= finding.end_column <= len(rows[finding.end_line - 1]) + 1
        assert (finding.line, finding.column) < (finding.end_line, finding.end_column)


@settings(max_examples=60)
@given(st.data())
def test_a_damaged_file_gives_findings_and_no_exception(data: st.DataObject) -> None:
    text = as_yaml(constitution())
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 20)))
    found = lint_text(text[:start] + data.draw(_TEXTS) + text[end:])
    assert all(f.line >= 1 and f.column >= 1 and f.message for f in found)


def of_many_words(count: int) -> Constitution:
    words = PAGE.split()
    principles = []
    for number in range(count):
        picked = (words[(7 * number + 13 * step) % len(words)] for step in range(20))
        text = f"Prefer the reply that {' '.join(picked)}"
        principles.append(principle(f"p{number}", compare=text))
    return constitution(*principles)


@pytest.mark.parametrize("count", [64, 500, 1000])
def test_many_principles_cost_few_steps_each_and_very_few_per_pair(count: int) -> None:
    target = of_many_words(count)
    number_of_pairs = count * (count - 1) / 2
    assert (
        steps(lambda: lint(target)) < 2000 * count + 20 * number_of_pairs
    )  # measured: 1500, 8 to 13


PIECES = ("<your ", '"', "\u201c", "is a, ", "not a ", "when ", "prefer ")


@pytest.mark.parametrize("piece", PIECES)
def test_a_megabyte_of_text_costs_few_steps(piece: str) -> None:
    target = comparing(piece * (2**20 // len(piece)))
    assert steps(lambda: lint(target)) < 20_000


def test_wording_checks_read_a_text_up_to_a_limit() -> None:
    def padded(characters: int) -> Constitution:
        return comparing("Prefer this. ".ljust(characters) + "the shorter reply")

    assert "names-length" in rules(padded(wording.READ_CHARACTERS - 20))
    assert "names-length" not in rules(padded(wording.READ_CHARACTERS))


def test_pair_checks_compare_texts_up_to_a_limit() -> None:
    common = "Prefer the calm reply, whichever names a step. ".ljust(pairs.READ_CHARACTERS)
    assert "near-duplicate" in rules(comparing(common + "alpha", common + "beta gamma delta"))
    apart = comparing("Prefer warmth. ".ljust(1000) + "kiwi", "Prefer jokes. ".ljust(1000) + "kiwi")
    assert "near-duplicate" not in rules(apart)


@pytest.mark.timeout(120)  # a second or two; half an hour if a pattern's work is quadratic
@pytest.mark.parametrize("piece", PIECES)
def test_no_pattern_backtracks_over_a_long_text(
    piece: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (wording, pairs):
        monkeypatch.setattr(module, "READ_CHARACTERS", 10**9)
    lint(comparing(piece * 100_000))
