"""A pair typed by hand, and the votes on it, again and again while the constitution is edited.

A text is typed in lines and ended by a line that holds a single '.'; '@FILE' alone takes a file's
text; for the prompt, 'again' alone keeps the last one. The end of the input ends the session.
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
Say = Callable[[str], None]


def hold(
    file: str,
    lines: Iterator[str],
    judge: Judge,
    say: Say,
    show: Callable[[Judgment | Unjudged], None],
) -> None:
    """Judge every pair that is typed by the constitution as it is on disk at that moment.

    A file that is broken for the moment is told with its diagnostics, and the last good one kept.
    Raises ConstitutionError when the first cannot be read, and what `judge` raises.
    """
    law = Constitution.load(file)
    for pair in pairs(lines, say):
        try:
            now = Constitution.load(file)
        except ConstitutionError as error:
            say(f"{error}\n{file} cannot be used as it is: judged by what it was before")
        else:
            if now.digest != law.digest:
                say(f"{file} was changed: judged by what it is now")
            law = now
        try:
            show(judge(pair, law))
        except JudgeRequestError as error:  # such as a text too long: the next may do
            say(str(error))


def pairs(lines: Iterator[str], say: Say) -> Iterator[Comparison]:
    """The pairs that are typed, until the lines end; `say` asks for each text."""
    prompt = ""
    for number in itertools.count(1):
        again = f", or '{AGAIN}' for the last one" if prompt else ""
        texts = []
        for name, keep in ((f"prompt{again}", prompt), ("response A", ""), ("response B", "")):
            say(f"{name} (end with a line '{END}', or @FILE):")
            text = _text(lines, say, keep)
            if text is None:
                return
            texts.append(text)
        prompt, response_a, response_b = texts
        turn = Message(role="user", content=prompt)
        yield Comparison(str(number), (turn,), response_a, response_b)


def _text(lines: Iterator[str], say: Say, keep: str) -> str | None:
    """The next text that is not blank, `keep` for 'again'; None when the lines end before it."""
    typed: list[str] = []
    for line in lines:
        alone = line.strip()
        if not typed and alone.startswith("@"):
            try:
                typed = [Path(alone[1:]).expanduser().read_text(encoding="utf-8")]
            except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a NUL in the path
                say(f"{alone[1:]}: cannot be read ({error}); once more:")
                continue
        elif not typed and keep and alone == AGAIN:
            return keep
        elif alone != END:
            typed.append(line.rstrip("\r\n"))
            continue
        if text := "\n".join(typed).strip():
            return text
        say("that was empty, and nothing can be judged by it; once more:")
        typed = []
    return None
