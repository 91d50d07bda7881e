"""An interactive session: pairs typed by hand, judged by a constitution that is being edited.

A text is typed in lines and ends with a line containing a single '.'. A line '@FILE' reads the text
from a file; for the prompt, a line 'again' repeats the last one. The session ends with the input.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

from constitution.errors import ConstitutionError
from constitution.schema import Constitution, Message
from judge_service.errors import JudgeRequestError
from judge_service.types import Comparison, Judgment, Unjudged

END, AGAIN = ".", "again"

Judge = Callable[[Comparison, Constitution], Judgment | Unjudged]
Print = Callable[[str], None]


def run_session(
    file: str,
    lines: Iterator[str],
    judge: Judge,
    say: Print,
    show: Callable[[Judgment | Unjudged], None],
) -> None:
    """Judge every typed pair by the current content of the constitution's file.

    If the file is invalid at that moment, its diagnostics are printed and the last valid content is
    used. Raises ConstitutionError if it is invalid at the start, and what `judge` raises.
    """
    constitution = Constitution.load(file)
    for pair in pairs(lines, say):
        try:
            current = Constitution.load(file)
        except ConstitutionError as error:
            say(f"{error}\n{file} is invalid; using its last valid version")
        else:
            if current.digest != constitution.digest:
                say(f"{file} has changed; using the new version")
            constitution = current
        try:
            show(judge(pair, constitution))
        except JudgeRequestError as error:  # such as a text that is too long; the next may be fine
            say(str(error))


def pairs(lines: Iterator[str], say: Print) -> Iterator[Comparison]:
    """The typed pairs, until the lines end; `say` prints a prompt for each text."""
    prompt = ""
    for number in itertools.count(1):
        again = f", or '{AGAIN}' to repeat the last one" if prompt else ""
        texts = []
        for name, keep in ((f"prompt{again}", prompt), ("response A", ""), ("response B", "")):
            say(f"{name} (end with a line '{END}', or give @FILE):")
            text = _text(lines, say, keep)
            if text is None:
                return
            texts.append(text)
        prompt, response_a, response_b = texts
        turn = Message(role="user", content=prompt)
        yield Comparison(str(number), (turn,), response_a, response_b)


def _text(lines: Iterator[str], say: Print, keep: str) -> str | None:
    """The next text that is not blank, or `keep` for 'again'; None if the lines end first."""
    typed: list[str] = []
    for line in lines:
        alone = line.strip()
        if not typed and alone.startswith("@"):
            try:
                typed = [Path(alone[1:]).expanduser().read_text(encoding="utf-8")]
            except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a NUL in the path
                say(f"{alone[1:]}: cannot be read: {error}; try again:")
                continue
        elif not typed and keep and alone == AGAIN:
            return keep
        elif alone != END:
            typed.append(line.rstrip("\r\n"))
            continue
        if text := "\n".join(typed).strip():
            return text
        say("the text is empty; try again:")
        typed = []
    return None
