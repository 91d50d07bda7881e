"""A stage of a recipe: what it takes, what it gives, what its outcome depends on, what it does.

    dpo: {kind: dpo, model: policy, labels: [labels, extra.parquet], beta: 0.2}
    │          │           │              │                        └ a setting of the kind's config
    │          │           │              └ inputs: a stage and a file
    │          │           └ an input: a model of the recipe
    │          └ a key of KINDS (kinds/__init__.py)
    └ the name, and the folder that the stage writes into

A kind of stage is a subclass of `Stage` in a file of kinds/, and a line in `KINDS`. Its `inputs`
say everything that its `run` depends on besides its settings and the artifacts it takes: the runner
skips a stage whose declared inputs did not change, so a forgotten one would be a stale result.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from judge_service.planted.file import PlantedJudge, planted_file
from rlaif.data.datasets import read_preferences
from rlaif.data.files import as_path
from rlaif.data.records import Preference
from rlaif.models import catalog
from rlaif.pipeline.options import StageOptions
from rlaif.pipeline.recipe import ModelSpec
from rlaif.settings import MixWeight, MovingWeight, SettingsModel

if TYPE_CHECKING:
    from rich.console import Console

    from rlaif.pipeline.context import RunContext


class ArtifactType(StrEnum):
    """What a stage gives and takes; the value names it in messages."""

    MODEL = "a model"  # a whole model that training may begin from
    POLICY = "a policy"  # trained: an adapter over its model, or a whole model
    SAMPLER = "a way to answer"  # a model and more, without weights of its own
    REWARD_MODEL = "a reward model"
    SAMPLES = "samples"
    PREFERENCES = "preferences"
    DEMONSTRATIONS = "demonstrations"
    RESPONSES = "responses"  # of several policies to the same prompts
    EVALUATION = "an evaluation"
    REPORT = "a report"


EVERY_STAGE = "every stage"
"""The default of a slot that takes all stages of fitting types."""


_ON_A_MODEL = (ArtifactType.POLICY, ArtifactType.REWARD_MODEL, ArtifactType.SAMPLER)


@dataclass(frozen=True, slots=True)
class Slot:
    """An input of a kind of stage.

    takes: the artifact types that fit. many: a list may be given, of at least `least`. weighted:
    names with weights, too, below 0 if `negative`, [first, last] if `moving`. untrained: only a
    model that the recipe brings along, as it judges through a server. default: the name of the
    recipe's model that is used where a stage names none, or EVERY_STAGE; prefers: the one used
    instead where the recipe has it. optional: may be left out. files: a path may be given; of a
    folder if `folders`. texts: what else is accepted as it is written, such as "judge:HOST:PORT".
    """

    takes: tuple[ArtifactType, ...]
    doc: str
    many: bool = False
    least: int = 1
    untrained: bool = False
    default: str = ""
    prefers: str = ""
    optional: bool = False
    files: bool = False
    folders: bool = False
    weighted: bool = False
    negative: bool = False
    moving: bool = False
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Files:
    """Files that an outcome depends on; the runner replaces them by their digests."""

    paths: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """One input as a stage names it: another stage, a model of the recipe, a file, or a text.

    part: of what the stage gives, for "revisions.pairs" `pairs`; "" for the main one.
    """

    text: str
    origin: Stage | ModelSpec | Path | str
    weight: MixWeight = 1.0
    part: str = ""

    @property
    def fixed_weight(self) -> float:
        """The weight, in a slot where it cannot move."""
        assert not isinstance(self.weight, MovingWeight), f"{self.text} has a moving weight"
        return self.weight

    @property
    def stage(self) -> Stage | None:
        """The stage it comes from; None for what the recipe brings along."""
        return self.origin if isinstance(self.origin, Stage) else None

    @property
    def model(self) -> str:
        """The folder or hub id of a whole model. Raises ModelError."""
        if isinstance(self.origin, Stage):
            return str(self.origin.folder)
        assert isinstance(self.origin, ModelSpec), f"{self.text} is not a model"
        return catalog.resolve(self.origin.model)

    @property
    def title(self) -> str:
        """What a person calls it: a stage's name, or the model itself."""
        return self.origin.model if isinstance(self.origin, ModelSpec) else self.text

    @property
    def label(self) -> str:
        """A short name: a stage's or model's own, a file's without its ending."""
        return self.origin.stem if isinstance(self.origin, Path) else self.text

    @property
    def spec(self) -> ModelSpec:
        """The model as the recipe names it, for one that no stage trains."""
        assert isinstance(self.origin, ModelSpec), f"{self.text} is not among the models"
        return self.origin

    @property
    def judge(self) -> ModelSpec | str:
        """The model that judges, or the HOST:PORT of a server that runs."""
        return self.origin if isinstance(self.origin, str) else self.spec

    @property
    def untrained(self) -> ModelSpec | None:
        """The model of the recipe that this one goes back to, through merges and training."""
        if not isinstance(self.origin, Stage):
            return self.origin if isinstance(self.origin, ModelSpec) else None
        merged = self.origin.sources.get("policy", ())
        base = merged[0] if merged else self.origin.base
        return base.untrained if base is not None else None

    @property
    def template_kwargs(self) -> dict[str, Any]:
        """Variables for the model's chat template, as the recipe sets them."""
        model = self.untrained
        return model.chat_template_kwargs if model is not None else {}

    @property
    def file(self) -> Path:
        """The file to read: the one that was given, or the one that the stage gives."""
        if isinstance(self.origin, Stage):
            return self.origin.file_of(self.part)
        assert isinstance(self.origin, Path), f"{self.text} is not a file"
        return self.origin

    def identity(self) -> Any:
        """What an outcome depends on here, as JSON with `Files` in it.

        An adapter is nothing without the model it was trained on, which therefore belongs to it.
        """
        match self.origin:
            case Stage():
                base = self.origin.base
                return [self.origin.outputs, base.identity() if base else None]
            case ModelSpec():
                return [self.origin, model_content(self.origin.model)]
            case Path():
                folder = self.origin.is_dir()  # a reward model from elsewhere
                return model_files(self.origin) if folder else Files((self.origin,))
            case _:
                return self.origin


@dataclass(eq=False)
class Stage(ABC):
    """A stage in a recipe; `folder` holds all that it writes, but for `outputs_elsewhere`.

    The folder is emptied when the declared inputs change, unless `keeps_its_own`: such a stage
    decides item by item what is still valid. minutes: the time it took where it was measured, for
    the estimate shown to the user; grows_with: the split whose number of prompts that time is
    proportional to, None where it does not depend on prompts. holds_out: whether this stage or one
    that depends on it looks at held-out pairs, so that this one must not train on their prompts.
    """

    name: str
    folder: Path
    sources: Mapping[str, tuple[Source, ...]]
    options: Any
    settings: Any
    minutes: float = 0.0
    added: bool = field(default=False)  # by the graph: no stage of the recipe
    holds_out: bool = field(default=False)  # set by the graph: it, or what depends on it, looks
    gate: Stage | None = field(default=None)  # set by the graph: decides whether this one must run

    kind: ClassVar[str]
    takes: ClassVar[Mapping[str, Slot]]
    gives: ClassVar[ArtifactType]
    settings_class: ClassVar[type[SettingsModel]] = SettingsModel
    options_class: ClassVar[type[StageOptions]] = StageOptions
    keeps_its_own: ClassVar[bool] = False
    is_result: ClassVar[bool] = False  # wanted for itself: nothing needs to take it
    grows_with: ClassVar[str | None] = None
    has_shards: ClassVar[bool] = False  # a fleet can make its rows, unless settings forbid it

    @classmethod
    def slots(cls, settings: Any) -> Mapping[str, Slot]:
        """The inputs that these settings use; those of `takes`, where they do not matter."""
        return cls.takes

    def refused(self) -> Iterator[tuple[str, str]]:
        """(input, what is wrong and what to do) of sources that cannot be used although their types
        fit; found before anything runs, so neither torch nor files of other stages are read."""
        yield from ()

    def off_fleet(self) -> str:
        """Why its rows cannot be made as shards by a fleet (fleet/); "" if they can."""
        return "" if self.has_shards else "only sample, label and revise make rows one by one"

    @abstractmethod
    def does(self, context: RunContext) -> str:
        """What the stage does, for a person."""

    @abstractmethod
    def run(self, context: RunContext) -> None:
        """Do the work, resuming what a killed run left in `folder`."""

    def inputs(self, context: RunContext) -> dict[str, Any]:
        """What the outcome depends on besides kind, options, settings and `sources`."""
        return {}

    def ends(self) -> str:
        """Why the stages whose gate this one is need not run, once it is finished; "" if they
        must."""
        return ""

    @property
    def not_needed(self) -> str:
        """Why the stage need not run, as the gates before it have found; "" if it must."""
        return (self.gate.not_needed or self.gate.ends()) if self.gate is not None else ""

    @property
    def looks(self) -> bool:
        """Whether it evaluates on held-out pairs while it trains."""
        return False

    @property
    def outputs(self) -> Files:
        """The files that other stages read."""
        return model_files(self.folder)

    @property
    def parts(self) -> Mapping[str, ArtifactType]:
        """What it gives besides, with these settings: part → type, taken as "NAME.PART"."""
        return {}

    def file_of(self, part: str = "") -> Path:
        """The file of what it gives, or of one of its `parts`."""
        return self.outputs.paths[0]

    @property
    def outputs_elsewhere(self) -> tuple[Path, ...]:
        """Files that the stage writes outside its folder."""
        return ()

    def show(self, context: RunContext, console: Console) -> None:  # noqa: B027
        """Print what a person wants to see at the end of a run; by default nothing."""

    # ── what a stage is made from ────────────────────────────────────────────────────────────

    def source(self, slot: str) -> Source:
        """The only source of a slot."""
        (source,) = self.sources[slot]
        return source

    @property
    def base(self) -> Source | None:
        """The model that a trained policy or reward model began from, or a sampler answers with:
        its input `model`; None for other stages."""
        trained = self.gives in _ON_A_MODEL
        return self.source("model") if trained and "model" in self.sources else None

    @property
    def trains_adapter(self) -> bool:
        """Whether what it trains is an adapter over `base`; with lora: null, a whole model."""
        return getattr(self.settings, "lora", None) is not None

    @property
    def predecessors(self) -> list[Stage]:
        """The stages that this one takes something from, and its gate, each once, in order."""
        found = (source.stage for sources in self.sources.values() for source in sources)
        return list(dict.fromkeys(stage for stage in (*found, self.gate) if stage is not None))

    def declared(self, context: RunContext) -> dict[str, Any]:
        """Everything the outcome depends on, as JSON with `Files` in it."""
        return {
            "kind": self.kind,
            "options": self.options,
            "settings": self.settings,
            "takes": {
                slot: [[source.weight, source.identity()] for source in sources]
                for slot, sources in self.sources.items()
            },
            **({"settings_files": Files(named)} if (named := self.settings.named_files) else {}),
            **self.inputs(context),
        }


# Beside the weights in a trained model's folder; none of them is read by other stages.
_NOT_OF_A_MODEL = {"metrics.jsonl", "evaluation.json", "answers.journal.jsonl"}
_OF_A_MODEL = {".json", ".safetensors", ".bin", ".model", ".txt", ".jinja"}


def model_files(folder: Path) -> Files:
    """The files of a model or adapter in its folder: weights, config and tokenizer."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return Files(
        tuple(
            file
            for file in files
            if file.is_file() and file.suffix in _OF_A_MODEL and file.name not in _NOT_OF_A_MODEL
        )
    )


def model_content(name: str) -> Files | str | None:
    """The files of a model given as a folder, the digest of a planted judge; None for a short name,
    whose files `catalog` pins, and for a hub id. Raises PlantedError."""
    if planted_file(name) is not None:
        return PlantedJudge.load(name).digest
    folder = as_path(name, "model")
    return model_files(folder) if name not in catalog.KNOWN and folder.is_dir() else None


def is_model(folder: Path) -> bool:
    """Whether a trainer left a whole model there (lora: null) and not an adapter."""
    return (folder / "config.json").is_file()


def labels_by_file(sources: Sequence[Source]) -> list[tuple[Path, list[Preference]]]:
    """(file, its preferences) of every source, in order. Raises RecordError."""
    return [(source.file, read_preferences(source.file)) for source in sources]


def judge_slot(doc: str) -> Slot:
    """A slot for the judge's model: by default the one that the recipe calls `judge`."""
    return one(ArtifactType.MODEL, doc, untrained=True, default="judge")


def evaluator_slot(doc: str, *, many: bool = False, prefers: str = "") -> Slot:
    """A slot for what judges and does not label: also a server that runs, or a planted judge."""
    texts = ("HOST:PORT", "planted:FILE")
    return one(
        ArtifactType.MODEL, doc, untrained=True, default="judge", prefers=prefers, many=many,
        texts=texts,
    )  # fmt: skip


def refused_judges(slot: str, sources: Sequence[Source]) -> Iterator[tuple[str, str]]:
    """(slot, what is wrong) of each text that is no address of a server."""
    from rlaif.feedback.connection import ADDRESS

    for source in sources:
        if isinstance(source.origin, str) and not ADDRESS.fullmatch(source.origin):
            yield (
                slot,
                (
                    f"invalid judge {source.origin!r}; give a model of the recipe, HOST:PORT of a "
                    "server that runs, or planted:FILE"
                ),
            )


def one(kind: ArtifactType, doc: str, **more: Any) -> Slot:
    """A slot for one artifact of a type."""
    return Slot((kind,), doc, **more)


def names_of(sources: Sequence[Source]) -> str:
    """The names of sources, for a person."""
    return ", ".join(source.title for source in sources)
