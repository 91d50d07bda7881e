"""Recipe: one YAML file with everything a run depends on, as a graph of named stages.

    name: small
    models: {policy: smollm2-135m, judge: qwen2.5-coder-1.5b}
    constitution: overall
    prompts: quickstart
    stages:
      samples: {kind: sample, model: policy}
      labels: {kind: label, samples: samples}
      dpo: {kind: dpo, model: policy, labels: labels}

`rlaif run RECIPE key=value …` changes any setting: `constitution=FILE`, `policy=FOLDER` (a name of
`models`), `dpo.beta=0.2` (a stage), `dpo=null` (leaves a stage out). graph.py turns the stages into
a checked graph; docs/recipes.md explains the form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import yaml
from pydantic import Field, PositiveInt, field_validator, model_validator

from constitution.errors import UserError, expected_one_of, nearest
from hardware.dtypes import Dtype
from judge_service.planted.file import planted_file
from rlaif.batching.chat import ChatTemplateKwargs
from rlaif.data.files import as_path
from rlaif.data.prompt_split import DEFAULT_RULE
from rlaif.pipeline.fleet.config import FleetConfig
from rlaif.pipeline.rounds.config import RoundsConfig
from rlaif.plain_yaml import load_yaml
from rlaif.settings import SettingsModel, configured

NAME = r"^[A-Za-z0-9_-]+$"
_LONGEST_NAME = 100  # it becomes the name of a folder
_OLD_FORM = frozenset({"sample", "label", "sft", "reward", "dpo", "ppo", "rest", "respond"})


Minutes = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class RecipeError(UserError):
    """A recipe that cannot be used: which file, stage or setting, and what to do."""


class ModelSpec(SettingsModel):
    """A model that the recipe brings along. dtype and flags matter where it judges,
    chat_template_kwargs where it answers or is trained: in every such stage alike."""

    model: str = Field(
        min_length=1, description="short name, folder or hub id; or planted:FILE for a judge"
    )
    dtype: Dtype = Field(
        default="auto",
        description="what it computes in as a judge; auto: bfloat16 where the hardware multiplies "
        "in it, else float32",
    )
    flags: tuple[str, ...] = Field(
        default=(), description="further flags of `rlaif serve` for it as a judge"
    )
    chat_template_kwargs: ChatTemplateKwargs = Field(
        default_factory=dict,
        description="variables for its chat template, in all stages that sample or train it, e.g. "
        "{enable_thinking: false}",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, data: Any) -> Any:
        return {"model": data} if isinstance(data, str) else data

    @property
    def is_served_elsewhere(self) -> bool:
        """Whether it runs behind a model server and is only named here."""
        return "--engine" in self.flags

    @property
    def is_planted(self) -> bool:
        """Whether it is a simulated judge, planted:FILE, and no model."""
        return planted_file(self.model) is not None


class Fit(SettingsModel):
    """Takes fewer prompts where a run would take too long on the machine (machine_fit.py)."""

    minutes: float = Field(gt=0, description="how long the run may take")
    train_prompts: int = Field(ge=2, description="never fewer than these")
    heldout_prompts: int = Field(ge=2, description="never fewer than these")


class Recipe(SettingsModel):
    """Everything a run depends on.

    >>> recipe = Recipe.load("quickstart", ["dpo.beta=0.2"])
    >>> recipe.stages["dpo"]["beta"]
    0.2

    The settings of a stage stand beside its kind (kinds/) and are checked with the whole graph,
    by `build_graph`, before anything is run.
    """

    renamed: ClassVar[dict[str, str]] = {"reward_heldout": "heldout_pairs"}

    name: str = Field(min_length=1, pattern=NAME)
    description: str = Field(default="", description="one line, for `rlaif recipes`")
    models: dict[str, ModelSpec] = Field(
        min_length=1, description="name → short name, folder or hub id; or with dtype and flags"
    )
    constitution: str = Field(description="a shipped name or a YAML file")
    prompts: str = Field(description="'quickstart', or a JSONL or Parquet file of prompts")
    system: str = Field(default="", description="a system message before every prompt")
    train_prompts: int | None = Field(default=None, ge=2, description="the first N; all by default")
    heldout_prompts: int | None = Field(
        default=None, ge=2, description="the first N; all by default"
    )
    heldout_share: float = Field(
        default=DEFAULT_RULE.heldout_share,
        gt=0,
        lt=1,
        description="share of the prompts held out where their file names no split",
    )
    split_seed: int = Field(default=DEFAULT_RULE.seed, description="of that split")
    heldout_pairs: float = Field(
        default=0.2,
        gt=0,
        lt=1,
        description="share of labeled pairs held out, by prompt and alike for all stages: they "
        "evaluate reward models, and other stages with eval_every or keep=best",
    )
    fit: Fit | None = Field(default=None, description="fewer prompts on slow machines; null: never")
    stages: dict[str, dict[str, Any] | None] = Field(
        min_length=1, description="name → kind, inputs and settings; null leaves a stage out"
    )
    rounds: RoundsConfig | None = Field(
        default=None,
        description="repeats the stages that lead to a policy, each round from the last one's; "
        "null: once",
    )
    results: tuple[str, ...] = Field(
        default=(),
        description="stages wanted for themselves; by default evaluations and reports, and where "
        "there are none, every stage that no other one takes",
    )
    fleet: FleetConfig | None = Field(
        default=None,
        description="a Ray cluster that makes the rows of stages which sample, label and revise; "
        "null: this host does",
    )
    minutes: dict[str, Minutes] = Field(
        default_factory=dict, description="how long each stage took where it was measured"
    )
    minutes_prompts: dict[Literal["train", "heldout"], PositiveInt] = Field(
        default_factory=dict,
        description="prompts with which the minutes were measured; by default the recipe's own",
    )
    gflops: float = Field(
        default=120.0,
        gt=0,
        allow_inf_nan=False,
        description="of the CPU on which the minutes were measured",
    )

    @classmethod
    def load(cls, name: str | Path, settings: Sequence[str] = ()) -> Self:
        """A shipped recipe by name, or a YAML file, with key=value settings laid over it.

        Raises RecipeError naming the file, the field, the value and the remedy.
        """
        text, source = _read(name)
        try:
            base = load_yaml(text)
        except yaml.YAMLError as error:
            raise RecipeError(f"{source}: not YAML: {error}") from error
        if not isinstance(base, dict):
            raise RecipeError(f"{source}: expected a mapping of settings (found {base!r})")
        if "principles" in base:
            raise RecipeError(
                f"{source}: a constitution, not a recipe; run a recipe with it: "
                f"`rlaif run quickstart constitution={source}`"
            )
        if "stages" not in base and _OLD_FORM & base.keys():
            raise RecipeError(
                f"{source}: recipes of this form are no longer read; write the stages under "
                "`stages:` as `rlaif recipes quickstart` shows, or see docs/recipes.md"
            )
        try:
            given = [settings] if isinstance(settings, str) else settings
            return configured(cls, [_full_key(base, each) for each in given], base)
        except UserError as error:
            raise RecipeError(f"{source}: {error}") from error

    @field_validator("models", mode="before")
    @classmethod
    def _check_models(cls, models: Any) -> Any:
        for name, spec in models.items() if isinstance(models, Mapping) else ():
            if problem := name_problem(name):
                raise ValueError(f"{name}: {problem}")
            if spec is None:
                raise ValueError(f"{name}: expected a short name, a folder or a hub id")
        return models

    @field_validator("stages", mode="before")
    @classmethod
    def _expect_mappings(cls, stages: Any) -> Any:
        """Every stage is a mapping of text; YAML reads `no`, `on` and `1` as something else."""
        for name, stage in stages.items() if isinstance(stages, Mapping) else ():
            if stage is not None and not isinstance(stage, Mapping):
                raise ValueError(f"{name}: expected {{kind: …}} or null (found {shortened(stage)})")
            for key in (name, *(stage or ())):
                if not isinstance(key, str):
                    where = "" if key is name else f"{name}: "
                    raise ValueError(f"{where}YAML reads a name as {key!r}; write it in quotes")
        return stages


def name_problem(name: Any) -> str:
    """What is wrong with the name of a stage or model, and what to do; "" if it is valid."""
    if not isinstance(name, str):
        return f"YAML reads this name as {name!r}; write it in quotes"
    if not re.fullmatch(NAME, name) or len(name) > _LONGEST_NAME:
        return f"invalid name; use at most {_LONGEST_NAME} letters, digits, _ and -"
    if name == "start":
        return "this name is taken by the first policy in results; choose another"
    if name in Recipe.model_fields:
        return "this name is taken by a key of recipes; choose another"
    return ""


def shortened(value: Any) -> str:
    """A value for a message."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def shipped_recipes() -> dict[str, str]:
    """Name → YAML text of the recipes that ship, sorted by name."""
    files = sorted(resources.files("rlaif.pipeline.recipes").iterdir(), key=lambda f: f.name)
    return {
        file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8")
        for file in files
        if file.name.endswith(".yaml")
    }


def recipe_text(name: str | Path) -> str:
    """The YAML of a shipped recipe, or of a file. Raises RecipeError."""
    return _read(name)[0]


def _read(name: str | Path) -> tuple[str, str]:
    """(text, what to call it) of a shipped recipe or a file."""
    path = as_path(name, "recipe")
    if path.suffix in {".yaml", ".yml"}:
        try:
            return path.read_text(encoding="utf-8"), str(path)
        except (OSError, ValueError) as error:  # UnicodeDecodeError; a name with a null character
            invalid = isinstance(error, UnicodeDecodeError)
            reason = "not UTF-8 text" if invalid else getattr(error, "strerror", None) or str(error)
            raise RecipeError(f"{path}: cannot be read: {reason}") from error
    shipped, asked = shipped_recipes(), str(name)
    if asked not in shipped:
        raise RecipeError(
            f"unknown recipe {asked!r}; {expected_one_of(asked, shipped)}; or give a .yaml file"
        )
    return shipped[asked], f"recipe {asked}"


def _full_key(base: Mapping[str, Any], setting: str) -> str:
    """A setting with the place of its key in the recipe: `dpo.beta=1` is `stages.dpo.beta=1`.

    A model that is given by name only becomes a mapping where one of its settings is named.
    """
    key, equals, _ = setting.partition("=")
    first, *rest = key.split(".")
    stages, models = (_mapping(base.get(part)) for part in ("stages", "models"))
    if not equals or first in Recipe.model_fields or first in Recipe.renamed:
        return setting
    if rest and first in stages and stages[first] is None:
        raise UserError(
            f"{key}: the recipe leaves the stage {first} out (null); give it a kind, as in "
            f"{first}={{kind: dpo, …}}, or remove this setting"
        )
    if first in stages:
        return f"stages.{setting}"
    if first in models:
        if rest and isinstance(models[first], str):
            models[first] = {"model": models[first]}
        return f"models.{setting}"
    known = [*Recipe.model_fields, *map(str, stages), *map(str, models)]
    hint = nearest(first, known) or f"known: {', '.join(sorted(known))}"
    raise UserError(f"{key}: unknown setting; {hint}")


def _mapping(value: Any) -> dict[str, Any]:
    """The value where it is a mapping; what is not is refused when the recipe is validated."""
    return value if isinstance(value, dict) else {}
