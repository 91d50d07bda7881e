"""The interactive session, typed by a list of lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from constitution.errors import ConstitutionError
from constitution.schema import Constitution
from judge_service.client.sync import JudgeRequestError
from judge_service.types import Comparison, Judgment
from rlaif.constitution_tools.try_session import pairs, run_session
from tests.support.feedback.builders import judged
from tests.support.service.serving import ONE_PRINCIPLE


def typed(text: str) -> list[tuple[str, str, str]]:
    found = pairs(iter(text.splitlines(keepends=True)), lambda text: None)
    return [(p.conversation[0].content, p.response_a, p.response_b) for p in found]


def test_a_text_ends_with_a_line_of_one_dot() -> None:
    assert typed("Why?\nTell me.\n.\nOne\n\ntwo\n.\nThree\n.\n") == [
        ("Why?\nTell me.", "One\n\ntwo", "Three")
    ]


def test_again_repeats_the_prompt_and_is_an_ordinary_word_elsewhere() -> None:
    assert typed("again\n.\na\n.\nb\n.\nagain\nagain\n.\nc\n.\n") == [
        ("again", "a", "b"),
        ("again", "again", "c"),
    ]


def test_a_text_is_read_from_a_file_and_a_missing_file_asks_again(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.txt").write_text("from a file\n")
    assert typed(f"Q\n.\n@{tmp_path}/no\n@{tmp_path}/a.txt\nb\n.\n") == [("Q", "from a file", "b")]


def test_an_empty_text_asks_again_and_the_end_of_input_ends_the_session() -> None:
    assert typed(".\n \n.\nQ\n.\na\n.\nb") == []


class TestSession:
    PAIR = "Q\n.\na\n.\nb\n.\n"

    def run(self, path: Path, versions: list[str | None]) -> tuple[list[str], list[str]]:
        """Judge a pair after writing each version; → the principles used, the lines printed."""
        used: list[str] = []
        printed: list[str] = []

        def lines():
            for text in versions:
                if text is not None:
                    path.write_text(text)
                yield from self.PAIR.splitlines()

        def judge(pair: Comparison, constitution: Constitution) -> Judgment:
            used.append(constitution.principles[0].compare)
            return judged(constitution, {constitution.principles[0].id: (0.9, 0.9)})

        path.write_text(ONE_PRINCIPLE)
        run_session(str(path), lines(), judge, printed.append, lambda answer: None)
        return used, printed

    def test_an_edit_applies_to_the_next_pair_and_an_invalid_file_keeps_the_last(
        self, tmp_path: Path
    ) -> None:
        edited = ONE_PRINCIPLE.replace("says more", "says less")
        used, printed = self.run(tmp_path / "mine.yaml", [None, edited, "name: [", None, edited])
        more, less = "Prefer the reply that says more.", "Prefer the reply that says less."
        assert used == [more, less, less, less, less]
        assert sum("has changed" in line for line in printed) == 1
        assert sum("is invalid" in line and "mine.yaml:1:" in line for line in printed) == 2

    def test_a_file_that_is_invalid_at_the_start_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "mine.yaml").write_text("name: [")
        with pytest.raises(ConstitutionError):
            run_session(str(tmp_path / "mine.yaml"), iter([]), None, print, print)  # type: ignore[arg-type]

    def test_a_pair_that_the_judge_rejects_does_not_end_the_session(self, tmp_path: Path) -> None:
        (tmp_path / "mine.yaml").write_text(ONE_PRINCIPLE)
        printed: list[str] = []

        def refuse(pair: Comparison, constitution: Constitution) -> Judgment:
            raise JudgeRequestError("response A is too long")

        lines = iter((2 * self.PAIR).splitlines())
        run_session(str(tmp_path / "mine.yaml"), lines, refuse, printed.append, print)
        assert printed.count("response A is too long") == 2
