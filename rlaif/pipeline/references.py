"""What the inputs of a stage refer to: other stages, models, files, and texts such as judge:….

labels: labels                         the stage of that name
labels: revisions.pairs                what else the stage of that name gives
labels: [labels, extra.parquet]        several
data: {labels: 1, books.jsonl: 0.2}    several with weights, where the slot adds them up
data: {a: [1, 0.5], b: [0, 0.5]}       weights that move over a run, where the slot mixes
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from constitution.errors import nearest
from judge_service.planted.file import planted_file
from rlaif.pipeline.kinds import KINDS
from rlaif.pipeline.options import StageOptions
from rlaif.pipeline.recipe import ModelSpec, Recipe
from rlaif.pipeline.stage import EVERY_STAGE, ArtifactType, Slot, Source, Stage
from rlaif.settings import MixWeight, finite_number, mix_weight


@dataclass(frozen=True, slots=True)
class StageDraft:
    """A stage as written: its kind, its references by slot, its options and settings."""

    name: str
    kind: type[Stage]
    references: Mapping[str, Any]
    options: StageOptions
    settings: Any

    @property
    def slots(self) -> Mapping[str, Slot]:
        """The inputs that these settings use."""
        return self.kind.slots(self.settings)

    def stage(self, folder: Path, recipe: Recipe) -> Stage:
        """The stage, without its sources as yet."""
        minutes = recipe.minutes.get(self.name, 0.0)
        return self.kind(self.name, folder, {}, self.options, self.settings, minutes)


class Resolver:
    """Turns the references of one stage into sources, noting every problem."""

    def __init__(
        self, recipe: Recipe, stages: Mapping[str, Stage], draft: StageDraft, problems: list[str]
    ) -> None:
        self._recipe = recipe
        self._stages = stages
        self._draft = draft
        self._problems = problems

    def sources(self) -> Iterator[tuple[str, tuple[Source, ...]]]:
        """(slot, its sources) for every slot in use."""
        slots = self._draft.slots
        for name in self._draft.references.keys() - slots.keys():
            self._note(name, "has no effect with these settings; remove it")
        for name, slot in slots.items():
            written = self._draft.references.get(name)
            for default in (slot.prefers, slot.default):
                if written is None and default in self._recipe.models:
                    written = default
            if written is None:
                if not slot.optional and slot.default != EVERY_STAGE:
                    self._note(name, f"missing input; {self._offer(slot)}")
                continue
            known = len(self._problems)
            found = [self._source(name, slot, *each) for each in self._listed(name, slot, written)]
            if len(self._problems) == known and len(found) < slot.least:
                self._note(name, f"expected at least {slot.least}: {slot.doc}")
            yield name, tuple(source for source in found if source)

    def _listed(self, name: str, slot: Slot, written: Any) -> list[tuple[str, MixWeight]]:
        """(text, weight) of what is written in a slot: a name, a list, or names with weights.

        Of a list, stages that the recipe leaves out by null are left out, too.
        """
        pairs: list[tuple[Any, Any]] = []
        if isinstance(written, str | os.PathLike):
            return [(os.fspath(written), 1.0)]
        if slot.weighted and isinstance(written, Mapping):
            pairs = list(written.items())
        elif slot.many and isinstance(written, Sequence):
            pairs = [(each, 1.0) for each in written]
        if not pairs:
            forms = [
                "a name",
                *["a list of names"] * slot.many,
                *["{name: weight}"] * slot.weighted,
            ]
            expected = (
                " or ".join(forms) if len(forms) < 3 else f"{', '.join(forms[:-1])}, or {forms[-1]}"
            )
            self._note(name, f"expected {expected} (found {_short(written)})")
        kept: dict[str, MixWeight] = {}
        for each, given in pairs:
            text = os.fspath(each) if isinstance(each, os.PathLike) else each
            weight = _weight(given, slot)
            if not isinstance(text, str) or weight is None:
                bound = "other than 0" if slot.negative else "above 0"
                bound += ", or [first, last]" if slot.moving else ""
                expected = f"names and weights {bound}" if slot.weighted else "names"
                found = f"{text!r}: {given!r}" if isinstance(written, Mapping) else repr(text)
                self._note(name, f"expected {expected} (found {_short_text(found)})")
            elif text in kept:
                self._note(name, f"{text} is named twice; remove one")
            elif self._recipe.stages.get(text, text) is not None:
                kept[text] = weight
        return list(kept.items())

    def _source(self, name: str, slot: Slot, text: str, weight: MixWeight) -> Source | None:
        (stage, part), model = self._stage_of(text), self._recipe.models.get(text)
        if stage is not None:
            if not fits(stage, slot, part):
                given = stage.parts[part] if part else stage.gives
                self._note(name, f"{text} gives {given}, not {_types(slot)}; "
                           f"{self._offer(slot)}")  # fmt: skip
                return None
            return Source(text, stage, weight, part)
        if model is not None:
            if ArtifactType.MODEL not in slot.takes:
                self._note(name, f"{text} is a model, not {_types(slot)}; {self._offer(slot)}")
                return None
            if model.is_planted and not slot.untrained:
                self._note(name, f"{text} is a planted judge, which can neither be sampled nor "
                           f"trained; {self._offer(slot)}")  # fmt: skip
                return None
            return Source(text, model, weight)
        if self._recipe.stages.get(text) is not None:  # it has problems of its own
            return None
        if text in self._recipe.stages:
            self._note(name, f"{text} is left out of this recipe; {self._offer(slot)}")
            return None
        if slot.untrained and slot.texts and planted_file(text) is not None:
            return Source(text, ModelSpec(model=text), weight)
        if slot.texts and ":" in text:  # whether there is such a source, its kind of stage checks
            return Source(text, text, weight)
        if slot.files and ("/" in text or Path(text).suffix):
            owner = self._stages.get(text.partition(".")[0])
            if owner is not None and owner.parts and not os.path.exists(text):
                known = ", ".join(f"{owner.name}.{part}" for part in owner.parts)
                self._note(name, f"unknown part {text!r}; {owner.name} also gives {known}")
                return None
            return self._file(name, slot, text, weight)
        hint = nearest(text, [*self._stages, *self._recipe.models]) or self._offer(slot)
        self._note(name, f"unknown name {text!r}; {hint}")
        return None

    def _stage_of(self, text: str) -> tuple[Stage | None, str]:
        """The stage of that name, and the part of "NAME.PART"; (None, "") for none."""
        name, _, part = text.partition(".")
        stage = self._stages.get(name)
        known = stage is not None and (part in stage.parts or text == name)
        return (stage, part) if known else (None, "")

    def _file(self, name: str, slot: Slot, text: str, weight: MixWeight) -> Source | None:
        """A path; for a slot that takes folders, the path of one."""
        path = os.path.expanduser(text)  # Path.expanduser raises for unknown users
        is_wanted = os.path.isdir if slot.folders else os.path.isfile
        if is_wanted(path):
            return Source(text, Path(path), weight)
        wanted = "folder" if slot.folders else "file"
        exists = os.path.exists(path)  # Path.exists raises for long names
        wrong = f"not a {wanted}" if exists else f"no such {wanted}"
        self._note(name, f"{text}: {wrong}; give a {wanted} by its path from the working directory")
        return None

    def _offer(self, slot: Slot) -> str:
        """What would do in a slot."""
        others = [s for s in self._stages.values() if s.name != self._draft.name]
        fitting = [s.name for s in others if fits(s, slot)]
        fitting += [f"{s.name}.{part}" for s in others for part in s.parts if fits(s, slot, part)]
        if ArtifactType.MODEL in slot.takes:
            fitting += [name for name in self._recipe.models if name != self._draft.name]
        kinds = ", ".join(k for k, kind in KINDS.items() if kind.gives in slot.takes)
        also = ["a folder" if slot.folders else "a file"] if slot.files else []
        also += slot.texts
        if fitting or also:
            return f"these would do: {', '.join([*fitting, *also])}"
        return f"add a stage of kind {kinds}" if kinds else "name it under models"

    def _note(self, slot: str, problem: str) -> None:
        self._problems.append(f"stages.{self._draft.name}.{slot}: {problem}")


def fits(stage: Stage, slot: Slot, part: str = "") -> bool:
    """Whether a slot takes what a stage gives, or this part of it; a policy does as a model, once
    it is merged."""
    if part:
        return stage.parts[part] in slot.takes
    merged = stage.gives is ArtifactType.POLICY and ArtifactType.MODEL in slot.takes
    return not slot.untrained and (stage.gives in slot.takes or merged)


def _types(slot: Slot) -> str:
    return " or ".join(slot.takes)


def _weight(value: Any, slot: Slot) -> MixWeight | None:
    """What is written as a weight; None where the slot takes no such weight."""
    if isinstance(value, list | tuple):
        return mix_weight(value) if slot.moving else None
    weight = finite_number(value)
    return weight if weight and (weight > 0 or slot.negative) else None


def _short(value: Any) -> str:
    return _short_text(repr(value))


def _short_text(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
