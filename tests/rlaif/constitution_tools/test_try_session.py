"""The interactive session, typed by a list of lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from constitution.errors import ConstitutionError
from constitution.schema import Constitution
from judge_service.client.sync import JudgeRequestError
from judge_service.types import Comparison, Judgment
from rlaif.constitution_tools.try_session import hold, pairs
from tests.support.feedback.builders import judged
from tests.support.service.serving import ONE_PRINCIPLE


def typed(text: str) -> list[tuple[str, str, str]]:
    found = pairs(iter(text.splitlines(keepends=True)), lambda told: None)
    return [(p.conversation[0].content, p.response_a, p.response_b) for p in found]


def test_texts_of_several_lines_end_with_a_line_of_one_dot() -> None:
    assert typed("Why?\nTell me.\n.\nOne\n\ntwo\n.\nThree\n.\n") == [
        ("Why?\nTell me.", "One\n\ntwo", "Three")
    ]


def test_again_keeps_the_prompt_and_is_an_ordinary_word_elsewhere() -> None:
    assert typed("again\n.\na\n.\nb\n.\nagain\nagain\n.\nc\n.\n") == [
        ("again", "a", "b"),
        ("again", "again", "c"),
    ]


def test_a_file_is_taken_by_its_name_and_one_that_is_not_there_is_asked_again(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.txt").write_text("from a file\n")
    assert typed(f"Q\n.\n@{tmp_path}/no\n@{tmp_path}/a.txt\nb\n.\n") == [("Q", "from a file", "b")]


def test_an_empty_text_is_asked_for_again_and_the_end_of_input_ends() -> None:
    assert typed(".\n \n.\nQ\n.\na\n.\nb") == []


class TestHold:
    PAIR = "Q\n.\na\n.\nb\n.\n"

    def hold(self, path: Path, between: list[str | None]) -> tuple[list[str], list[str]]:
        """Judge a pair after writing each text of `between`; → by what, and what was said."""
        by: list[str] = []
        said: list[str] = []

        def lines():
            for text in between:
                if text is not None:
                    path.write_text(text)
                yield from self.PAIR.splitlines()

        def judge(pair: Comparison, law: Constitution) -> Judgment:
            by.append(law.principles[0].compare)
            return judged(law, {law.principles[0].id: (0.9, 0.9)})

        path.write_text(ONE_PRINCIPLE)
        hold(str(path), lines(), judge, said.append, lambda found: None)
        return by, said

    def test_an_edit_counts_from_the_next_pair_and_a_broken_file_keeps_the_last(
        self, tmp_path: Path
    ) -> None:
        edited = ONE_PRINCIPLE.replace("says more", "says less")
        by, said = self.hold(tmp_path / "law.yaml", [None, edited, "name: [", None, edited])
        more, less = "Prefer the reply that says more.", "Prefer the reply that says less."
        assert by == [more, less, less, less, less]
        assert sum("was changed" in told for told in said) == 1
        assert sum("cannot be used" in told and "law.yaml:1:" in told for told in said) == 2

    def test_a_file_that_is_wrong_from_the_start_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "law.yaml").write_text("name: [")
        with pytest.raises(ConstitutionError):
            hold(str(tmp_path / "law.yaml"), iter([]), None, print, print)  # type: ignore[arg-type]

    def test_a_pair_that_the_judge_refuses_does_not_end_the_session(self, tmp_path: Path) -> None:
        (tmp_path / "law.yaml").write_text(ONE_PRINCIPLE)
        said: list[str] = []

        def refuse(pair: Comparison, law: Constitution) -> Judgment:
            raise JudgeRequestError("response A is too long")

        lines = iter((2 * self.PAIR).splitlines())
        hold(str(tmp_path / "law.yaml"), lines, refuse, said.append, print)
        assert said.count("response A is too long") == 2
