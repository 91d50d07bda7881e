"""Strict loading: golden messages with line and column, and files."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from constitution import Constitution, ConstitutionError, strict_yaml
from constitution.loader import library_names
from constitution.strict_yaml import parse

GOOD = """\
name: small
version: 1.0.0
traits:
  kind: {weight: 1.0}
principles:
  - id: calm
    trait: kind
    compare: Prefer the calm reply.
    critique: Find haste.
    revise: Calm it.
    examples:
      - prompt: Quick!
        response_a: Let us look together.
        response_b: Hurry up.
        preferred: A
"""


def problems(text: str) -> list[str]:
    with pytest.raises(ConstitutionError) as caught:
        Constitution.from_yaml(text, "c.yaml")
    return str(caught.value).splitlines()


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


def test_a_valid_file_loads() -> None:
    constitution = Constitution.from_yaml(GOOD)
    assert constitution.principle("calm").examples[0].conversation[0].content == "Quick!"


def test_a_byte_order_mark_and_windows_line_ends_are_accepted() -> None:
    assert (
        Constitution.from_yaml("\ufeff" + GOOD.replace("\n", "\r\n")).digest
        == Constitution.from_yaml(GOOD).digest
    )


GOLDEN = {
    "a mistyped key": (
        changed("critique:", "critque:"),
        ["c.yaml:9:5: unknown key 'critque' (did you mean 'critique'?)"],
    ),
    "an unknown key with no similar one": (
        GOOD + "owner: me\n",
        [
            "c.yaml:16:1: unknown key 'owner' "
            "(the keys here are name, version, description, traits, principles)"
        ],
    ),
    "a missing key": (
        changed("    revise: Calm it.\n", ""),
        ["c.yaml:6:5: principle 'calm' lacks the key 'revise' (add 'revise: …')"],
    ),
    "a number for a text": (
        changed("Prefer the calm reply.", "3"),
        [
            "c.yaml:8:14: principle 'calm', compare: expected text, found 3, a number "
            '(put it in quotes: "3")'
        ],
    ),
    "a yes that YAML reads as true": (
        changed("Hurry up.", "yes"),
        [
            "c.yaml:14:21: principle 'calm', example 1, response_b: expected text, "
            'found yes, which YAML reads as true (put it in quotes: "yes")'
        ],
    ),
    "a date for a text": (
        changed("Quick!", "2024-05-01"),
        [
            "c.yaml:12:17: principle 'calm', example 1, prompt: expected text, "
            'found 2024-05-01, a date (put it in quotes: "2024-05-01")'
        ],
    ),
    "a version that YAML reads as a number": (
        changed("1.0.0", "1.0"),
        [
            "c.yaml:2:10: version: expected text, found 1.0, a number "
            '(put three numbers in quotes: version: "1.0.0")'
        ],
    ),
    "a version that is not semantic": (
        changed("1.0.0", "'1.0'"),
        [
            "c.yaml:2:10: version: expected three numbers, MAJOR.MINOR.PATCH, such as 1.0.0, "
            "found the text '1.0'"
        ],
    ),
    "a text for a number": (
        changed("1.0}", "heavy}"),
        [
            "c.yaml:4:18: traits, kind, weight: expected a number, found the text 'heavy' "
            "(write it without quotes, from 0.001 to 1000, such as 1.5)"
        ],
    ),
    "a weight that is not a number": (
        changed("1.0}", ".nan}"),
        [
            "c.yaml:4:18: traits, kind, weight: expected a number from 0.001 to 1000, "
            "found .nan, a number"
        ],
    ),
    "an empty text": (
        changed("Find haste.", ""),
        [
            "c.yaml:9:14: principle 'calm', critique: expected text, found nothing "
            "(write a text, or delete the key)"
        ],
    ),
    "a text of blanks": (
        changed("Find haste.", "'  '"),
        [
            "c.yaml:9:15: principle 'calm', critique: must not be empty "
            "(write a text, or delete what it belongs to)"
        ],
    ),
    "an outcome that does not exist": (
        changed("preferred: A", "preferred: a"),
        [
            "c.yaml:15:20: principle 'calm', example 1, preferred: expected 'A', 'B' or 'TIE', "
            "found the text 'a'"
        ],
    ),
    "a list for a mapping": (
        changed("  kind: {weight: 1.0}", "  - kind"),
        ["c.yaml:4:3: traits: expected a mapping of keys, found a list"],
    ),
    "no principle": (
        GOOD[: GOOD.index("principles")] + "principles: []\n",
        [
            "c.yaml:4:3: no principle serves the trait 'kind' "
            "(write a principle for it, or delete the trait)",
            "c.yaml:5:13: principles: must not be empty (write at least one)",
        ],
    ),
    "an unknown trait": (
        changed("trait: kind", "trait: knid"),
        ["c.yaml:7:12: unknown trait 'knid' (did you mean 'kind'?)"],
    ),
    "an invalid trait name": (
        GOOD.replace("kind", "Kind One"),
        [
            "c.yaml:4:3: traits, Kind One: expected a lower-case letter followed by up to 63 "
            "lower-case letters, digits, '_' or '-'",
            "c.yaml:7:12: principle 'calm', trait: expected a lower-case letter followed by up to "
            "63 lower-case letters, digits, '_' or '-', found the text 'Kind One'",
        ],
    ),
    "a repeated key": (
        changed("    trait: kind\n", "    trait: kind\n    trait: kind\n"),
        ["c.yaml:8:5: duplicate key 'trait', first on line 7 (delete or rename one of them)"],
    ),
    "an anchor and an alias": (
        changed("Find haste.", "&a Find haste.").replace("Calm it.", "*a"),
        [
            "c.yaml:9:15: the anchor &a is not allowed "
            "(delete it, or quote text that starts with &)",
            "c.yaml:10:13: the alias *a is not allowed "
            "(write the value out, or quote text that starts with *)",
        ],
    ),
    "a merge key": (
        changed("{weight: 1.0}", "{<<: {weight: 1.0}}"),
        ["c.yaml:4:10: merge keys (<<) are not allowed (write the keys out)"],
    ),
    "a tag": (
        changed("Calm it.", "!!python/name:os.system Calm it."),
        [
            "c.yaml:10:13: the tag !!python/name:os.system is not allowed "
            "(delete it, or quote text that starts with !)"
        ],
    ),
    "a colon in plain text": (
        changed("Calm it.", "Do this: calm it."),
        [
            "c.yaml:10:20: not valid YAML: mapping values are not allowed in this context "
            "(quote text that holds ': ', or check the indentation)"
        ],
    ),
    "a quote that is never closed": (
        changed("Calm it.", '"Calm it.'),
        [
            "c.yaml:10:13: not valid YAML: found unexpected end of stream "
            "(a quote or bracket that is opened here is never closed)"
        ],
    ),
    "a control character": (
        changed("Calm it.", "Calm\x07 it."),
        [
            "c.yaml:10:17: invalid control character U+0007 "
            "(delete it, or write it as an escape in double quotes)"
        ],
    ),
    "a second document": (
        GOOD + "---\n" + GOOD,
        [
            "c.yaml:16:1: a second document starts here "
            "(delete the '---'; one file holds one constitution)"
        ],
    ),
    "nothing": (
        "",
        ["c.yaml:1:1: the constitution is empty (see docs/constitution.md for an example)"],
    ),
    "only a comment": (
        "# soon\n",
        ["c.yaml:1:1: the constitution is empty (see docs/constitution.md for an example)"],
    ),
    "only a word": (
        "hello",
        [
            "c.yaml:1:1: the constitution: expected a mapping of keys, found the text 'hello' "
            "(its keys are name, version, description, traits, principles)"
        ],
    ),
}


@pytest.mark.parametrize(("text", "expected"), GOLDEN.values(), ids=GOLDEN.keys())
def test_an_error_names_the_position_the_problem_and_the_remedy(
    text: str, expected: list[str]
) -> None:
    assert problems(text) == expected


def test_all_problems_are_reported_at_once_in_the_order_of_the_file() -> None:
    text = (
        GOOD.replace("name: small", "name: Small")
        .replace("1.0.0", "1.0")
        .replace("trait: kind", "trait: knid")
        .replace("critique:", "critiqe:")
        .replace("preferred: A", "preferred: C")
    )
    lines = [int(problem.split(":")[1]) for problem in problems(text)]
    assert lines == [1, 2, 7, 9, 15]


def test_the_number_of_reported_problems_is_limited() -> None:
    assert len(problems("a: 1\n" * 10_000)) == strict_yaml.MAX_PROBLEMS


def test_over_a_thousand_missing_parts_are_reported_as_one_problem() -> None:
    (found,) = problems("principles:\n" + "- {}\n" * 250)  # five keys are missing in each
    assert "more than 1000 missing or wrong parts" in found


def test_too_many_keys_and_values_are_an_error() -> None:
    wide = f"[{', '.join('x' * 250)}]"
    (found,) = problems("a:\n" + f"- {wide}\n" * 24)
    assert f"more than {strict_yaml.MAX_NODES} keys and values" in found


class TestFiles:
    def test_a_path_is_loaded_with_its_name_in_errors(self, tmp_path: Path) -> None:
        file = tmp_path / "mine.yaml"
        file.write_text(changed("critique", "critic"), encoding="utf-8")
        with pytest.raises(ConstitutionError, match=r"mine\.yaml:9:5: unknown key 'critic'"):
            Constitution.load(file)

    def test_a_path_object_without_suffix_is_a_path(self, tmp_path: Path) -> None:
        (tmp_path / "hhh").write_text(GOOD, encoding="utf-8")
        assert Constitution.load(tmp_path / "hhh").name == "small"

    def test_a_missing_file_error_lists_the_shipped_names(self) -> None:
        with pytest.raises(ConstitutionError) as caught:
            Constitution.load("nowhere/c.yaml")
        assert str(caught.value) == (
            "nowhere/c.yaml: cannot be read: No such file or directory "
            "(check the path, or use a shipped constitution: customer_support, harmless, hhh, "
            "overall)"
        )

    def test_a_folder_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(ConstitutionError, match="Is a directory"):
            Constitution.load(tmp_path)

    def test_bytes_that_are_not_utf8_are_reported_with_their_position(self, tmp_path: Path) -> None:
        file = tmp_path / "c.yaml"
        file.write_bytes(GOOD.replace("Calm it.", "Für alle.").encode("latin-1"))
        with pytest.raises(ConstitutionError, match=r"c\.yaml:10:14: not UTF-8 text"):
            Constitution.load(file)

    def test_a_huge_file_is_read_only_up_to_the_limit(self, tmp_path: Path) -> None:
        file = tmp_path / "c.yaml"
        with file.open("wb") as out:
            out.truncate(1 << 40)  # sparse
        with pytest.raises(ConstitutionError, match="larger than 1024 KiB"):
            Constitution.load(file)


def test_the_parser_without_libyaml_reports_the_same_positions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for text, expected in GOLDEN.values():
        if "not valid YAML" in expected[0]:
            continue  # the two parsers word their syntax errors differently
        monkeypatch.setattr(strict_yaml, "_PARSER", yaml.SafeLoader)
        assert problems(text) == expected


def test_numbers_and_positions_of_a_tree() -> None:
    tree = parse("a:\n  - 1_000\n  - 1:30\n", "t")
    assert tree.data == {"a": [1000.0, None]}
    assert tree.place(("a", 1)).line == 3
    assert tree.place(("a", 1, "beyond")) == tree.place(("a", 1))


@pytest.mark.parametrize("name", library_names())
def test_every_shipped_constitution_loads_under_its_own_name(name: str) -> None:
    constitution = Constitution.load(name)
    assert constitution.name == name
    assert constitution.description


@pytest.mark.parametrize(
    ("old", "new", "remedy"),
    [
        ("name: rules", "name: Rules", "write rules"),
        ("  kind: {}", "  Kind: {}", "write kind"),
        ("id: calm", "id: Calm-One", "write calm-one"),
        ("id: calm", "id: calm one", ""),  # a hyphen, an underscore, or one word?
        ("version: 1.0.0", "version: Beta", ""),
    ],
)
def test_a_name_in_the_wrong_case_is_answered_with_the_right_one(
    old: str, new: str, remedy: str
) -> None:
    text = (
        "name: rules\nversion: 1.0.0\ntraits:\n  kind: {}\nprinciples:\n"
        "  - {id: calm, trait: kind, compare: C., critique: C., revise: R.}\n"
    )
    with pytest.raises(ConstitutionError) as caught:
        Constitution.from_yaml(text.replace(old, new))
    found = next(d for d in caught.value.diagnostics if "expected" in d.message)
    assert found.remedy == remedy
    assert (found.end_line, found.end_column) > (found.line, found.column)
