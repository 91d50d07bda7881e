"""The tables of settings in docs/ are those of the configs: `make docs` regenerates them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, Field

from docs.settings_tables import BLOCK, DOCS, table, with_tables
from rlaif.algorithms.dpo.losses import LOSSES
from rlaif.settings import SettingsModel

PAGES = {path.relative_to(DOCS): path.read_text(encoding="utf-8") for path in DOCS.rglob("*.md")}
TRAINERS = ("sft", "reward", "dpo", "ppo", "rest")
HEADER = "| setting | type | default | meaning |\n|---|---|---|---|\n"


class AdapterSettings(BaseModel):
    rank: int = Field(default=16, ge=1, description="of the | adapter")


class SeedSettings(SettingsModel):
    seed: int = Field(default=0, description="of the draw")


class TrainerSettings(SeedSettings):
    rate: float = Field(default=2e-4, gt=0, lt=1, description="per step")
    mode: Literal["a", "b"] | None = Field(default=None)
    names: tuple[str, ...] = Field(default=("x", "y"))
    inner: AdapterSettings | None = Field(default=AdapterSettings())
    share: float = Field(description="of the rows")
    roles: dict[str, AdapterSettings] = Field(default_factory=dict)
    note: str = Field(default="")


def test_a_table_has_own_settings_first_and_nested_ones_by_their_full_key() -> None:
    assert table(TrainerSettings) == HEADER + (
        "| `rate` | number > 0, < 1 | `0.0002` | per step |\n"
        "| `mode` | `a` or `b`, or null | null |  |\n"
        "| `names` | list of: text | `[x, y]` |  |\n"
        "| `inner` | settings, or null | below |  |\n"
        "| `inner.rank` | integer ≥ 1 | `16` | of the \\| adapter |\n"
        "| `share` | number | required | of the rows |\n"
        "| `roles` | names with: settings | `{}` |  |\n"
        "| `roles.NAME.rank` | integer ≥ 1 | `16` | of the \\| adapter |\n"
        "| `note` | text | empty |  |\n"
        "| `seed` | integer | `0` | of the draw |\n"
    )


def test_a_table_of_own_settings_leaves_the_inherited_ones_out() -> None:
    assert "| `seed` |" in table(TrainerSettings)
    assert "| `seed` |" not in table(TrainerSettings, own=True)


def test_a_stale_block_is_filled_in_anew_and_the_rest_stays() -> None:
    name = "rlaif.models.lora_config.LoraConfig"
    page = f"# x\n\n<!-- settings of {name} -->\nold\n<!-- end of settings -->\n\nmore\n"
    fresh = with_tables(page)
    assert fresh.startswith(f"# x\n\n<!-- settings of {name} -->\n{HEADER}| `rank` | integer ≥ 1")
    assert fresh.endswith("|\n<!-- end of settings -->\n\nmore\n")
    assert "old" not in fresh
    assert with_tables(fresh) == fresh


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_the_tables_of_a_page_are_fresh(page: Path) -> None:
    assert with_tables(PAGES[page]) == PAGES[page], "run `make docs`"


@pytest.mark.parametrize("trainer", TRAINERS)
def test_every_trainer_has_a_page_with_its_settings(trainer: str) -> None:
    page = PAGES[Path("training") / f"{trainer}.md"]
    assert f"<!-- settings of rlaif.algorithms.{trainer}.config." in page
    assert f"rlaif train {trainer} " in page


def test_every_dpo_loss_is_on_its_page_with_its_own_settings() -> None:
    page = PAGES[Path("training") / "dpo.md"]
    shown = {match["name"].rpartition(".")[2] for match in BLOCK.finditer(page)}
    for name, loss in LOSSES.items():
        assert f"| `{name}` |" in page
        assert loss.config.__name__ in shown
