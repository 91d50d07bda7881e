"""What a recipe brings along for all of its stages: prompts, their split, constitutions, judges.

Prompts and labeled pairs are split once, here, and alike for every stage: a prompt is on the same
side in whatever a stage reads, whichever labels or files it comes from.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from constitution import Constitution, Message
from rlaif.data.prompt_split import (
    HELD_OUT,
    TRAIN,
    PromptSet,
    SplitRule,
    text_of_messages,
)
from rlaif.data.prompts import read_prompts
from rlaif.data.records import Lesson, PlainText, Prompt, RecordError, Sample
from rlaif.pipeline.options import PromptSelection
from rlaif.pipeline.recipe import ModelSpec, Recipe, RecipeError

if TYPE_CHECKING:
    from judge_service.client.sync import JudgeClient
    from rlaif.evaluation.comparison import Compare
    from rlaif.pipeline.options import JudgingConfig

Record = TypeVar("Record", bound=Lesson)

ANSWERS = "answers.journal.jsonl"
"""The judge's answers of a stage that compares."""


class SplitRecords(NamedTuple, Generic[Record]):
    """Records to train on, and those held out to look at during training."""

    train: list[Record]
    heldout: list[Record]


class RunContext:
    """A recipe at work in one folder."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe = recipe
        self.folder = folder

    # ── prompts ──────────────────────────────────────────────────────────────────────────────

    @cached_property
    def prompt_set(self) -> PromptSet:
        """All prompts that the recipe names, each with its split."""
        rule = SplitRule(self.recipe.heldout_share, self.recipe.split_seed)
        return read_prompts(self.recipe.prompts, rule)

    def prompts(self, selection: PromptSelection | str) -> list[Prompt]:
        """The recipe's prompts of a split, its system message before each.

        The recipe's limits count before a selection by kind or topic. Raises RecordError when no
        prompt is left.
        """
        chosen = PromptSelection.model_validate(selection)
        limits = {TRAIN: self.recipe.train_prompts, HELD_OUT: self.recipe.heldout_prompts}
        prompts = [
            prompt
            for prompt in self.prompt_set.of(chosen.split)[: limits.get(chosen.split)]
            if (not chosen.kind or prompt.kind in chosen.kind)
            and (not chosen.topic or prompt.topic in chosen.topic)
        ]
        if chosen.part is not None:
            number, parts = chosen.part
            if len(prompts) < parts:
                raise RecordError(
                    f"{self.recipe.prompts}: {len(prompts)} prompts of split {chosen.split!r} "
                    f"cannot be divided into {parts} parts, one for each round; add prompts, or "
                    "lower rounds.count and rounds.parts"
                )
            prompts = prompts[number - 1 :: parts]  # spread over the file, which may be sorted
        if not prompts:
            raise RecordError(
                f"{self.recipe.prompts}: no prompt of split {chosen.split!r} has kind "
                f"{list(chosen.kind) or 'any'} and topic {list(chosen.topic) or 'any'}"
            )
        if not self.recipe.system:
            return prompts
        system = Message(role="system", content=self.recipe.system)
        return [p.model_copy(update={"messages": (system, *p.messages)}) for p in prompts]

    def training_prompts(
        self, selection: PromptSelection | str, *, holds_out: bool = False
    ) -> list[Prompt]:
        """The same for training on the policy's own responses, without prompts that policies are
        evaluated on and, with `holds_out` (Stage.holds_out), those of held-out pairs. Raises
        RecordError when no prompt is left."""
        chosen = self.prompts(selection)
        left = [
            each
            for each in chosen
            if _text(each.messages) not in self.evaluated_texts
            and not (holds_out and self._place(each.messages) < self.recipe.heldout_pairs)
        ]
        if not left:
            raise RecordError(
                f"{self.recipe.prompts}: all {len(chosen)} prompts of this selection are held out, "
                "and policies are evaluated on them; choose others, such as prompts: train"
            )
        return left

    def count(self, split: str) -> int | None:
        """How many prompts of a split there are, up to the recipe's limit; None for none."""
        _ = self.prompt_set  # a file that cannot be read is an error
        try:
            return len(self.prompts(split))
        except RecordError:  # a stage that needs them says so itself
            return None

    @cached_property
    def evaluated_texts(self) -> frozenset[str]:
        """The texts of the held-out prompts: policies are evaluated on them, none trains on one."""
        _ = self.prompt_set
        try:
            prompts = self.prompt_set.of(HELD_OUT)
        except RecordError:  # a file with training prompts only, as for labeling alone
            return frozenset()
        return frozenset(_text(prompt.messages) for prompt in prompts)

    # ── labels and lessons ───────────────────────────────────────────────────────────────────

    def split(
        self, records: Sequence[Record], *, looks: bool, holds_out: bool = False
    ) -> SplitRecords[Record]:
        """Records by side: held out are those of held-out prompts and, where the stage or one that
        depends on it looks at some while it trains (`holds_out`: Stage.holds_out), the share
        `heldout_pairs` of the others, by a digest of their prompt.

        Where a stage does not look itself, they are left out, and their number is printed. Plain
        text has no prompt and is never held out. Raises RecipeError when a side that is needed is
        empty.
        """
        train: list[Record] = []
        heldout: list[Record] = []
        evaluated = 0
        for record in records:
            messages = _prompt_of(record)
            if messages is not None and _text(messages) in self.evaluated_texts:
                evaluated += 1
                apart = True
            else:
                apart = (looks or holds_out) and self._place(messages) < self.recipe.heldout_pairs
            if not apart:
                train.append(record)
            elif looks:
                heldout.append(record)
        only_text = all(isinstance(record, PlainText) for record in records)
        if not train or (looks and not heldout and not only_text):
            raise RecipeError(
                f"heldout_pairs={self.recipe.heldout_pairs} leaves {len(train)} records to train "
                f"on and {len(heldout)} held out; label more pairs or change it"
            )
        left_out = 0 if looks else len(records) - len(train)
        for count, why in (
            (min(evaluated, left_out), "policies are evaluated on them"),
            (left_out - evaluated, "a stage that depends on this one is evaluated on them"),
        ):
            if count > 0:
                print(
                    f"left out {count} of {len(records)} records: their prompts are held out, and "
                    f"{why}",
                    file=sys.stderr,
                )
        return SplitRecords(train, heldout)

    def split_inputs(self, *, holds_out: bool) -> list[object]:
        """What `split` depends on besides the records: part of a stage's inputs."""
        places = [self.recipe.heldout_pairs, sorted(self._spelled.items())] if holds_out else None
        return [places, sorted(self.evaluated_texts)]

    @cached_property
    def _spelled(self) -> dict[str, str]:
        """The recipe's prompts, system message included, by their text in any spelling."""
        system = [self.recipe.system] if self.recipe.system else []
        return {
            _text(prompt.messages): "\0".join([*system, *(m.content for m in prompt.messages)])
            for prompt in self.prompt_set.prompts
        }

    def _place(self, messages: Sequence[Message] | None) -> float:
        """A number in [0, 1) from a prompt, alike with another system message, case or spacing; 1
        for text without a prompt."""
        if messages is None:
            return 1.0
        text = _text(messages)
        spelled = self._spelled.get(text, text)
        return int(hashlib.sha256(spelled.encode()).hexdigest()[:8], 16) / 2**32

    # ── judges ───────────────────────────────────────────────────────────────────────────────

    def constitution_source(self, name: str) -> str:
        """The name or file of a constitution; "" stands for the recipe's."""
        return name or self.recipe.constitution

    def constitution(self, name: str = "") -> Constitution:
        """A constitution by name or file; by default the recipe's. Raises ConstitutionError."""
        return Constitution.load(self.constitution_source(name))

    def judge_client(
        self, judge: ModelSpec | str, constitution: str, log: Path
    ) -> AbstractContextManager[JudgeClient]:
        """A client to a judge server: of our own with this model, or the one at this HOST:PORT."""
        from rlaif.feedback.client import judge_client

        if isinstance(judge, str):
            return judge_client("", "", log, judge)
        flags = ("--dtype", judge.dtype, *judge.flags)
        return judge_client(judge.model, self.constitution_source(constitution), log, flags=flags)

    @contextmanager
    def compared_by(
        self, judge: ModelSpec | str, folder: Path, constitution: str, judging: JudgingConfig
    ) -> Iterator[Compare]:
        """Compares responses by the judge, which is served for the block; every answer is kept in
        the journal in `folder`.

        A server that runs must have the constitution in this form, or accept it with a request.
        """
        from rlaif.feedback.labeler import comparer

        with self.judge_client(judge, constitution, folder / "judge.log") as client:
            rules = self.constitution(constitution)
            yield comparer(
                client,
                folder / ANSWERS,
                constitution=rules if isinstance(judge, str) else rules.name,
                options=judging.options(),
            )


def run_facts(context: RunContext) -> dict[str, str]:
    """What a report says about the run as a whole: name → text."""
    constitution = context.constitution()
    models = {name: spec.model for name, spec in context.recipe.models.items()}
    return {
        "recipe": context.recipe.name,
        **models,
        "constitution": f"{constitution.name} {constitution.version} "
        f"(sha256 {constitution.digest[:16]})",
        "prompts": context.recipe.prompts,
    }


def first_samples(samples: Sequence[Sample]) -> list[Sample]:
    """The first response to each prompt."""
    return [sample for sample in samples if sample.index == 0]


def _prompt_of(record: Lesson) -> tuple[Message, ...] | None:
    if isinstance(record, PlainText):
        return None
    return record.prompt.messages if isinstance(record, Sample) else record.prompt


def _text(messages: Sequence[Message]) -> str:
    """A conversation's text without its system message, which a recipe may have added: equal for
    those that differ in case and spacing only, as for the split of prompts."""
    return text_of_messages([message for message in messages if message.role != "system"])
