"""The sources that SFT mixes: records to imitate and their share of the rows. No torch.

Several preferences may be about one prompt: all pairs of a ranked set, every chosen response with
every rejected one. Of those, only the best response is imitated, and once (`imitable`): the third
best of four is a chosen response, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from constitution.schema import Message
from rlaif.algorithms.sft.config import SFTConfig
from rlaif.data.cut_off import CutResponses, count_lessons, is_cut
from rlaif.data.datasets import read_lessons
from rlaif.data.records import Lesson, PlainText, Preference, Sample
from rlaif.settings import MixWeight, MovingWeight, mix_weight, parse_mixed
from rlaif.training.config import TrainingError


@dataclass(frozen=True, slots=True)
class SFTSource:
    """Records to imitate. name: unique in a mix; weight: relative share of the rows, which may
    move over the run (MovingWeight)."""

    name: str
    records: Sequence[Lesson]
    weight: MixWeight = 1.0

    @classmethod
    def read(cls, text: str) -> SFTSource:
        """Read a source from "FILE", "WEIGHT*FILE" or "FIRST..LAST*FILE", named after the file
        without its ending.

        Example: `SFTSource.read("0.2*books.jsonl")`. Raises TrainingError or RecordError.
        """
        weight, file = parse_mixed(text, "source", "FILE", error=TrainingError)
        path = Path(file).expanduser()
        return cls(path.stem, read_lessons(path), weight)


def both_ends(weight: MixWeight) -> MovingWeight:
    """A weight at the first and at the last step."""
    return MovingWeight(*weight) if isinstance(weight, tuple) else MovingWeight(weight, weight)


class Imitated(NamedTuple):
    """What is imitated of a record; the prompt of a plain text is empty."""

    name: str
    prompt: Sequence[Message]
    response: str
    complete: bool = True  # as in Sample
    end_token: str = ""


def imitated(lesson: Lesson) -> Imitated:
    """The response to imitate, of a Preference the chosen one."""
    if isinstance(lesson, PlainText):
        return Imitated(lesson.id, (), lesson.text)
    if isinstance(lesson, Preference):
        name, ending = f"{lesson.id} (chosen)", (lesson.chosen_complete, lesson.chosen_end_token)
        return Imitated(name, lesson.prompt, lesson.chosen_text, *ending)
    if isinstance(lesson, Sample):
        name, ending = f"{lesson.prompt.id}#{lesson.index}", (lesson.complete, lesson.end_token)
        return Imitated(name, lesson.prompt.messages, lesson.response, *ending)
    return Imitated(lesson.id, lesson.prompt, lesson.response)


def is_unsure(lesson: Lesson, config: SFTConfig) -> bool:
    """Whether it is a preference whose label is too near ½ to imitate its chosen response."""
    return isinstance(lesson, Preference) and lesson.prob_chosen < config.min_prob_chosen


class Imitable(NamedTuple):
    """The records of a source that are imitated, and how many are not, by reason."""

    lessons: list[Lesson]
    unsure: int  # preferences below min_prob_chosen
    aside: int  # preferences whose chosen response is not the best of its prompt, or repeats it
    cut: int  # left out by cut_off=skip

    @property
    def cut_off(self) -> CutResponses:
        """The cut-off responses among those that are best, left out or not."""
        count = count_lessons(self.lessons).responses + self.cut
        return CutResponses(count, count, len(self.lessons) + self.cut)

    def describe(self, name: str, config: SFTConfig) -> Iterator[str]:
        """A line for users on each reason why records are left out, and on responses that were cut
        off. name: of the source."""
        if self.unsure:
            threshold = f"min_prob_chosen={config.min_prob_chosen}"
            yield f"{name}: left aside {self.unsure} preferences: prob_chosen is below {threshold}"
        if self.aside:
            yield (
                f"{name}: left aside {self.aside} preferences: of the responses to a prompt only "
                "the best is imitated, and once"
            )
        if line := self.cut_off.describe("records", config.cut_off == "skip"):
            yield f"{name}: {line}"


def imitable(lessons: Sequence[Lesson], config: SFTConfig) -> Imitable:
    """The records to imitate, in order.

    The best responses to a prompt are those that were rejected least often (never, in a ranking)
    in the preferences that are sure enough; each of them is imitated once.
    """
    sure = [lesson for lesson in lessons if not is_unsure(lesson, config)]
    pairs = [lesson for lesson in sure if isinstance(lesson, Preference)]
    defeats = Counter((_prompt_key(pair), pair.rejected_text) for pair in pairs)
    fewest: dict[Hashable, int] = {}
    for pair in pairs:
        prompt = _prompt_key(pair)
        count = defeats[prompt, pair.chosen_text]
        fewest[prompt] = min(count, fewest.get(prompt, count))
    best: list[Lesson] = []
    taken: set[tuple[Hashable, str]] = set()
    for lesson in sure:
        if isinstance(lesson, Preference):
            response = _prompt_key(lesson), lesson.chosen_text
            if response in taken or defeats[response] > fewest[response[0]]:
                continue
            taken.add(response)
        best.append(lesson)
    kept = [lesson for lesson in best if config.cut_off == "keep" or not is_cut(lesson)]
    return Imitable(kept, len(lessons) - len(sure), len(sure) - len(best), len(best) - len(kept))


def _prompt_key(pair: Preference) -> Hashable:
    return tuple((message.role, message.content) for message in pair.prompt)


def require_lessons(
    config: SFTConfig, sources: Sequence[SFTSource], eval_samples: Sequence[Lesson]
) -> None:
    """Raises TrainingError for sources that cannot be mixed, and for settings without effect."""
    names = [source.name for source in sources]
    if not sources:
        raise TrainingError("no source to learn from; give at least one")
    if len(set(names)) < len(names):
        raise TrainingError(f"two sources have the same name: {', '.join(names)}; rename one")
    for source in sources:
        if mix_weight(source.weight) is None:
            raise TrainingError(
                f"source {source.name}: weight={source.weight} is not above 0; raise it (of a "
                "weight that moves, one end may be 0)"
            )
    for end, place in enumerate(("first", "last")):
        if not any(both_ends(source.weight)[end] for source in sources):
            raise TrainingError(
                f"all weights are 0 at the {place} step, which would have no rows; raise one"
            )
    if config.eval_every is not None and config.text_eval is None and not eval_samples:
        raise TrainingError(
            f"eval_every={config.eval_every} does nothing without held-out samples and text_eval; "
            "give one of them, or remove it"
        )
    lessons = [lesson for source in sources for lesson in source.records] + list(eval_samples)
    given = "min_prob_chosen" in config.model_fields_set
    if given and not any(isinstance(lesson, Preference) for lesson in lessons):
        raise TrainingError(
            f"min_prob_chosen={config.min_prob_chosen} does nothing without preferences; remove it"
        )
