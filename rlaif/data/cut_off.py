"""Responses that a length limit cut off: their text, how many there are, what training does.

A response that was cut off did not end where it stops, so no loss teaches an end token after it:
its row has none. Data of others does not say whether a response is complete; it counts as such.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from rlaif.data.records import Lesson, Preference, Sample

CutOff = Literal["keep", "skip"]  # train on cut-off responses without an end, or leave them out


class ResponseText(str):
    """The text of a response that knows how it ended; any other str counts as complete.

    complete, end_token: as in Sample. Reward functions get these where an str is declared.

    >>> ResponseText("Once upon a", complete=False).complete
    False
    """

    complete: bool
    end_token: str

    def __new__(cls, text: str, complete: bool = True, end_token: str = "") -> ResponseText:
        """The text with its ending."""
        made = super().__new__(cls, text)
        made.complete, made.end_token = complete, end_token
        return made


class CutResponses(NamedTuple):
    """How many responses of a set of records are cut off, and how many records hold one."""

    responses: int
    records: int
    of_records: int

    def describe(self, what: str, left_out: bool) -> str:
        """A line for users; "" where none is cut off. what: "pairs" or "responses"."""
        if not self.records:
            return ""
        then = "left out" if left_out else "no end is taught for it"
        more = f" ({self.responses} responses)" if self.responses > self.records else ""
        return (
            f"{self.records} of {self.of_records} {what} hold a response that was cut off by its "
            f"length limit{more}: {then}"
        )

    def pair_metrics(self) -> dict[str, float]:
        """The counts of training pairs as metrics: cut_responses, cut_pairs. Those of cut_off=skip
        are counted, too: they are what was left out."""
        return {"cut_responses": float(self.responses), "cut_pairs": float(self.records)}


def ending_of(response: str) -> tuple[bool, str]:
    """(complete, end_token) of a response; any str but a ResponseText is complete."""
    if isinstance(response, ResponseText):
        return response.complete, response.end_token
    return True, ""


def cut_in_pair(pair: Preference) -> int:
    """How many responses of a pair are cut off."""
    return (not pair.chosen_complete) + (not pair.rejected_complete)


def is_cut(lesson: Lesson) -> bool:
    """Whether the response that SFT imitates is cut off: a sample's, or a pair's chosen one."""
    if isinstance(lesson, Sample):
        return not lesson.complete
    return isinstance(lesson, Preference) and not lesson.chosen_complete


def count_pairs(pairs: Iterable[Preference]) -> CutResponses:
    """Cut-off responses of pairs, and the pairs that hold them."""
    counts = [cut_in_pair(pair) for pair in pairs]
    return CutResponses(sum(counts), sum(map(bool, counts)), len(counts))


def count_lessons(lessons: Iterable[Lesson]) -> CutResponses:
    """Cut-off responses among those that SFT imitates."""
    cut = [is_cut(lesson) for lesson in lessons]
    return CutResponses(sum(cut), sum(cut), len(cut))


def pairs_for(pairs: Sequence[Preference], cut_off: CutOff) -> Sequence[Preference]:
    """The pairs to train on."""
    return pairs if cut_off == "keep" else [pair for pair in pairs if not cut_in_pair(pair)]
