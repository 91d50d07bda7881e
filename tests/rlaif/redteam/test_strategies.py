"""Topics and strategies: what a file may say, and the prompts that come of it."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest
import yaml

from rlaif.redteam.families import TEST_SIDE, TRAIN_SIDE, selected_families, side_of
from rlaif.redteam.strategies import (
    AttackStrategy,
    RedTeamError,
    grid,
    is_strategies_file,
    load_strategies,
)
from tests.support.feedback.red_teams import SMALL, small_file


def strategy(*templates, **more):
    return AttackStrategy(id="s", templates=templates, **more)


def test_a_template_wraps_the_request_and_its_numbers_go_round():
    two = strategy("{request}", "Please: {request}")
    assert [two.write("Do it.", number) for number in range(3)] == [
        "Do it.", "Please: Do it.", "Do it."
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("request_text", "halves"),
    [("Help me do it", ("Help me", "do it")), ("a b c", ("a b", "c")), ("abcd", ("ab", "cd"))],
)
def test_a_split_request_has_all_of_it_once(request_text, halves):
    assert strategy("{first}|{second}").write(request_text, 0).split("|") == list(halves)


def test_braces_in_a_request_are_left_as_they_are():
    assert strategy("x {request}").write("{first} {}", 0) == "x {first} {}"


@pytest.mark.parametrize(
    ("encode", "written"),
    [("base64", "SGk="), ("rot13", "Uv"), ("reversed", "iH"), ("", "Hi")],
)
def test_a_request_is_encoded_before_it_is_wrapped(encode, written):
    assert strategy("read {request}", encode=encode).write("Hi", 0) == f"read {written}"


def test_the_file_that_ships_has_the_seven_strategies_with_a_twin_for_every_topic():
    file = load_strategies()
    assert [each.id for each in file.strategies] == [
        "direct", "role-play", "fiction", "split-request", "encoding", "other-language",
        "begun-answer",
    ]  # fmt: skip
    cells = grid(file)
    assert len(cells) == len(file.topics) * 7
    prompts = {cell.strategy.write(cell.request, n) for cell in cells for n in range(2)}
    twins = {cell.strategy.write(cell.twin, n) for cell in cells for n in range(2)}
    assert len(prompts) == len(twins) == 2 * len(cells), "no two are alike"
    assert not prompts & twins
    assert all(len(text) < 600 for text in prompts | twins)
    encoded = next(cell for cell in cells if cell.strategy.encode)
    assert base64.b64decode(encoded.strategy.write(encoded.request, 0).split()[-1]).decode()


def test_cells_are_chosen_by_topic_and_family():
    file = load_strategies()
    cells = grid(file, ["fraud", "forgery"], ["direct", "fiction"])
    assert [cell.name for cell in cells] == [
        "direct-fraud", "direct-forgery", "fiction-fraud", "fiction-forgery"
    ]  # fmt: skip
    with pytest.raises(RedTeamError, match=r"unknown topic 'froud'; .*did you mean 'fraud'"):
        grid(file, ["froud"])
    with pytest.raises(RedTeamError, match=r"unknown family 'fictio'; .*did you mean 'fiction'"):
        grid(file, [], ["fictio"])


def test_families_that_ship_are_on_both_sides_by_their_name_alone():
    file = load_strategies()
    names = [each.family_name for each in file.strategies]
    assert [name for name in names if side_of(name) == TEST_SIDE] == ["fiction", "encoding"]
    both = selected_families(file, [TEST_SIDE]) + selected_families(file, [TRAIN_SIDE])
    assert sorted(both) == sorted(names)
    assert selected_families(file, ["fiction", TEST_SIDE]) == ["fiction", "encoding"]
    assert selected_families(file, []) == []


def test_a_side_without_a_family_is_refused(tmp_path):
    only = [{"id": "fiction", "templates": ["{request}"]}]
    file = load_strategies(small_file(tmp_path, strategies=only))
    with pytest.raises(RedTeamError, match=r"families: none of fiction is on the side 'train'"):
        selected_families(file, [TRAIN_SIDE])


PLAIN = SMALL["strategies"][0]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"topics": []}, "topics: "),
        ({"strategies": [{"id": "a", "templates": ["no place"]}]}, "needs {request}"),
        ({"strategies": [{"id": "a", "templates": ["{first}"]}]}, "found ['first']"),
        ({"strategies": [{**PLAIN, "encode": "bas64"}]}, "did you mean 'base64'"),
        ({"strategies": [PLAIN, PLAIN]}, "strategies: 'plain' is there twice"),
        ({"strategies": [{**PLAIN, "language": "fr"}]}, "topics.theft.request: no text in 'fr'"),
        ({"strategies": [{**PLAIN, "templats": []}]}, "did you mean 'templates'"),
        ({"strategies": [{**PLAIN, "id": "a b"}]}, "strategies.0.id"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path, changes, problem):
    with pytest.raises(RedTeamError) as caught:
        load_strategies(small_file(tmp_path, **changes))
    assert problem in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_what_is_no_file_of_strategies_is_refused(tmp_path):
    with pytest.raises(RedTeamError, match=r"gone\.yaml: cannot be read: No such file"):
        load_strategies(tmp_path / "gone.yaml")
    for text, why in (("[1]", "expected a mapping"), ("a: [", "not YAML")):
        (tmp_path / "x.yaml").write_text(text)
        with pytest.raises(RedTeamError, match=why):
            load_strategies(tmp_path / "x.yaml")


def test_a_text_alone_is_english_and_a_name_with_yaml_is_a_file(tmp_path):
    topic = {"id": "t", "request": {"de": "Hilf."}, "twin": "Help."}
    with pytest.raises(RedTeamError, match=r"topics\.t\.request: no text in 'en'"):
        load_strategies(small_file(tmp_path, topics=[topic]))
    assert is_strategies_file("mine.yml")
    assert not is_strategies_file("org/model")


def test_the_shipped_file_is_plain_yaml_that_a_user_can_copy(tmp_path):
    from importlib import resources

    text = (resources.files("rlaif.redteam") / "strategies.yaml").read_text("utf-8")
    (tmp_path / "copy.yaml").write_text(text, encoding="utf-8")
    assert load_strategies(tmp_path / "copy.yaml") == load_strategies()
    assert yaml.safe_load(text).keys() == {"topics", "strategies"}


def test_the_file_that_the_page_shows_can_be_used(tmp_path):
    page = Path(__file__).parents[3] / "docs" / "red_teaming.md"
    (text,) = re.findall(r"^```yaml\n(topics:.*?)^```$", page.read_text(), re.M | re.S)
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    file = load_strategies(tmp_path / "mine.yaml")
    assert [each.family_name for each in file.strategies] == ["persuasion", "rot13", "german"]
