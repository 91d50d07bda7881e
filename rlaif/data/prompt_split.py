"""The split of prompts into training and held-out ones.

A file decides by naming a `split` on its lines. If no line names one, a seeded rule does:

    place(prompt, seed) = sha256(seed, text of the prompt) / 2^256          in [0, 1)
    held out  ⇔  place < heldout_share

A prompt's side depends on its own text alone: adding, removing or reordering lines moves no other
prompt, a larger share only adds to the held-out ones, and prompts of equal text are never on both
sides. Small files are the exception, where chance could leave one side empty or far too large: of n
texts at least half of n·heldout_share and at most one and a half times that are held out (and at
least one is on either side), those with the lowest places. A new line may then move another one.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor

from constitution import Message
from constitution.errors import nearest
from rlaif.data.records import Prompt, RecordError

TRAIN, HELD_OUT = "train", "heldout"
TRAIN_NAMES = frozenset({TRAIN, "training"})
HELD_OUT_NAMES = frozenset(
    {HELD_OUT, "held_out", "held-out", "eval", "evaluation", "validation", "valid", "val", "dev"}
    | {"test"}
)
"""Names of the two splits that files use, case-insensitive."""

_REMEDY = (
    'give every line a split, as in {"prompt": "...", "split": "train"} or "split": "heldout" '
    f"(also accepted: {', '.join(sorted(HELD_OUT_NAMES - {HELD_OUT}))})"
)


@dataclass(frozen=True, slots=True)
class SplitRule:
    """How to split prompts whose file names no split."""

    heldout_share: float = 0.2  # of the distinct texts
    seed: int = 0


DEFAULT_RULE = SplitRule()


@dataclass(frozen=True, slots=True)
class PromptSet:
    """The prompts of one source, each with its split.

    rule: the rule that split them; None if the source names splits, or has one distinct text only.
    """

    source: str
    prompts: tuple[Prompt, ...]
    rule: SplitRule | None

    def of(self, split: str | None) -> list[Prompt]:
        """The prompts of a split, in order; None or "" selects all.

        `train` and `heldout` include their other names (TRAIN_NAMES, HELD_OUT_NAMES); any other
        split is matched exactly. Raises RecordError for an empty split.
        """
        if not split:
            return list(self.prompts)
        chosen = [prompt for prompt in self.prompts if in_split(prompt.split, split)]
        if not chosen:
            raise RecordError(self._why_empty(split))
        return chosen

    def describe(self) -> str:
        """One sentence for users: the sizes of the splits, and what decided them."""
        names = Counter(prompt.split for prompt in self.prompts)
        train = sum(n for name, n in names.items() if in_split(name, TRAIN))
        heldout = sum(n for name, n in names.items() if in_split(name, HELD_OUT))
        counts = f"{self.source}: {train} prompts to train on, {heldout} held out"
        if not any(map(names_split, self.prompts)):
            return f"{counts} (one distinct text)"
        if self.rule is None:
            shown = ", ".join(f"{name} {n}" for name, n in sorted(names.items()))
            return f"{counts} (split named by its lines: {shown})"
        return (
            f"{counts}. No line names a split, so a digest of each prompt's text decides "
            f"(heldout_share={self.rule.heldout_share:g}, split_seed={self.rule.seed}); "
            f"to choose yourself, {_REMEDY}"
        )

    def _why_empty(self, split: str) -> str:
        if not any(map(names_split, self.prompts)):
            return (
                f"{self.source}: cannot hold out prompts of a file with one distinct text; add "
                f"other prompts, or {_REMEDY}"
            )
        splits = sorted({prompt.split for prompt in self.prompts})
        near = nearest(split, splits)
        names = ", ".join(splits) + (f"; {near}" if near else "")
        remedy = f"{_REMEDY}, or remove the field from all lines to have a share held out"
        return f"{self.source}: no prompts of split {split!r}; it has: {names}; {remedy}"


def split_prompts(source: str, prompts: Sequence[Prompt], rule: SplitRule) -> PromptSet:
    """Assign splits to prompts: those named by their lines, or by the rule if no line names one.

    source: the file's name, for messages. A prompt without a split among others that name one is
    for training.
    """
    if any(map(names_split, prompts)):
        return PromptSet(source, tuple(prompts), None)
    heldout = held_out(prompts, rule)
    if not heldout:
        return PromptSet(source, tuple(prompts), None)
    sides = (HELD_OUT if text_of(prompt) in heldout else TRAIN for prompt in prompts)
    assigned = (
        p.model_copy(update={"split": side}) for p, side in zip(prompts, sides, strict=True)
    )
    return PromptSet(source, tuple(assigned), rule)


def held_out(prompts: Sequence[Prompt], rule: SplitRule) -> frozenset[str]:
    """Texts (`text_of`) of the held-out prompts; empty if all prompts have the same text."""
    places = {text: place(text, rule.seed) for text in map(text_of, prompts)}
    n, share = len(places), rule.heldout_share
    if n < 2:
        return frozenset()
    count = sum(at < share for at in places.values())
    fewest, most = max(1, floor(n * share / 2)), min(n - 1, ceil(1.5 * n * share))
    lowest_first = sorted(places, key=places.__getitem__)
    return frozenset(lowest_first[: min(max(count, fewest), most)])


def place(text: str, seed: int) -> float:
    """Pseudo-random position of a text in [0, 1), from a digest of text and seed.

    Its salt makes it independent of other splits by digest, such as that of the labels.
    """
    digest = hashlib.sha256(f"prompt split\0{seed}\0{text}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def text_of(prompt: Prompt) -> str:
    """Normalized text of a prompt: equal for prompts that differ in case and spacing only."""
    return text_of_messages(prompt.messages)


def text_of_messages(messages: Sequence[Message]) -> str:
    """Normalized text of a conversation, as `text_of`."""
    turns = [[m.role, " ".join(m.content.split()).casefold()] for m in messages]
    return json.dumps(turns, ensure_ascii=False)


def require_apart(
    train: Iterable[tuple[str, Sequence[Message]]], heldout: Iterable[tuple[str, Sequence[Message]]]
) -> None:
    """Raises RecordError when a held-out prompt is trained on, under whatever id.

    train, heldout: (id of the record, its prompt) of each. Prompts are equal when their
    `text_of_messages` is.
    """
    trained: dict[str, str] = {}
    for name, messages in train:
        trained.setdefault(text_of_messages(messages), name)
    both = [
        (name, trained[text])
        for name, messages in heldout
        if (text := text_of_messages(messages)) in trained
    ]
    if both:
        held, of_training = both[0]
        one = len(both) == 1
        records = "record has a prompt that is" if one else "records have prompts that are"
        raise RecordError(
            f"{len(both)} held-out {records} also trained on: {held!r} (held out) asks the same as "
            f"{of_training!r}, up to case and spacing; remove such prompts from one of the two, so "
            "that what is held out is new to the model"
        )


def require_splits_apart(prompts: PromptSet) -> None:
    """Raises RecordError when a source names both splits for prompts of equal text."""
    sides: dict[str, list[Prompt]] = {
        side: [prompt for prompt in prompts.prompts if in_split(prompt.split, side)]
        for side in (TRAIN, HELD_OUT)
    }
    train, heldout = ([(p.id, p.messages) for p in side] for side in sides.values())
    try:
        require_apart(train, heldout)
    except RecordError as error:
        raise RecordError(f"{prompts.source}: {error}") from error


def names_split(prompt: Prompt) -> bool:
    """Whether the line of a prompt says on which side it is."""
    return "split" in prompt.model_fields_set


def in_split(name: str, split: str) -> bool:
    """Whether a prompt of the split `name` belongs to `split`; every prompt belongs to ""."""
    known = {TRAIN: TRAIN_NAMES, HELD_OUT: HELD_OUT_NAMES}.get(split, frozenset())
    return not split or name == split or name.casefold() in known
