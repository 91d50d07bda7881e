"""`rlaif constitution new`: a commented copy or starter that loads, lints clean and round-trips."""

from __future__ import annotations

from pathlib import Path

import pytest

from constitution import Constitution, ConstitutionError
from constitution.errors import UserError
from constitution.lint import lint_text
from constitution.loader import library_names, read_source
from constitution.template import new_constitution
from constitution.writer import to_yaml

ORIGINS = ("", *library_names())


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("name", ["mine", "no", "y", "my-rules_2"])
def test_a_new_constitution_loads_under_its_name_without_findings(origin: str, name: str) -> None:
    text = new_constitution(name, origin)
    assert lint_text(text, "mine.yaml") == []
    made = Constitution.from_yaml(text)
    assert (made.name, made.version) == (name, "1.0.0")
    assert Constitution.from_yaml(to_yaml(made)).digest == made.digest


@pytest.mark.parametrize("origin", library_names())
def test_a_copy_differs_in_name_version_and_first_comment_only(origin: str) -> None:
    made, original = new_constitution("mine", origin), read_source(origin)[0]
    of = Constitution.load(origin)
    copied = Constitution.from_yaml(made)
    assert copied == of.model_copy(update={"name": "mine", "version": "1.0.0"})
    body = original[original.index("name:") :]
    renamed = body.replace(f"name: {origin}", "name: mine", 1)
    renamed = renamed.replace(f"version: {of.version}", "version: 1.0.0", 1)
    assert made.endswith(renamed)
    header = made.removesuffix(renamed)
    assert f"a copy of {origin} {of.version}" in header
    assert all(line.startswith("#") for line in header.splitlines())


def test_the_starter_explains_every_key_that_a_constitution_needs() -> None:
    comments = [line for line in new_constitution("mine").splitlines() if "#" in line]
    for key in ("name", "version", "trait", "weight", "compare", "critique", "examples", "scope"):
        assert any(key in line for line in comments), key


def test_a_file_can_be_copied_with_its_comments_and_line_breaks(tmp_path: Path) -> None:
    text = read_source("overall")[0].replace("name: overall", "name: 'theirs'  # ours")
    file = tmp_path / "theirs.yaml"
    file.write_bytes(("\ufeff" + text).replace("\n", "\r\n").encode())
    made = new_constitution("mine", str(file))
    assert "name: mine  # ours\r\n" in made
    assert "# Our own wording." in made  # a file's first comment stays
    assert "\ufeff" not in made
    assert made.count("\n") == made.count("\r\n")
    assert Constitution.from_yaml(made).name == "mine"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("My Rules", "'My Rules'.*write my_rules, for example"),
        ("rules.yaml", "write rules, for example"),
        ("1st", "write my_rules"),
        ("", "invalid name"),
        ("hhh", "name of a shipped constitution: hhh; choose another"),
    ],
)
def test_a_name_that_cannot_be_used_is_answered_with_one_that_can(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        new_constitution(name)


def test_an_origin_that_does_not_load_is_reported_with_its_problems(tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text("name: [")
    with pytest.raises(ConstitutionError, match=r"broken\.yaml:1:8"):
        new_constitution("mine", str(file))
    with pytest.raises(ConstitutionError, match="did you mean 'hhh'"):
        new_constitution("mine", "hhhh")
