"""Tables of settings in the guides, generated from the config classes. Run as `make docs`.

A page says where a table goes, and of which class:

    <!-- settings of rlaif.algorithms.dpo.config.DPOConfig -->
    <!-- end of settings -->

and, for the limits of a judge server, `limits of` and `end of limits`. Everything between the two
lines is replaced. `own settings of` leaves out what the class inherits.
The class's own settings come first, then the inherited ones, nearest base first.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

from pydantic import BaseModel

from rlaif.settings_rows import SettingRow, setting_rows

DOCS = Path(__file__).parent
BLOCK = re.compile(
    r"(?P<begin><!-- (?P<own>own )?settings of (?P<name>[\w.]+) -->\n)"
    r".*?(?P<end><!-- end of settings -->)",
    re.DOTALL,
)
LIMITS = re.compile(
    r"(?P<begin><!-- limits of (?P<name>[\w.]+) -->\n).*?(?P<end><!-- end of limits -->)", re.DOTALL
)
HEADER = "| setting | type | default | meaning |\n|---|---|---|---|\n"


def with_tables(page: str) -> str:
    """The page with every block filled in anew."""

    def fill(block: re.Match[str]) -> str:
        module, _, name = block["name"].rpartition(".")
        config = getattr(import_module(module), name)
        return block["begin"] + table(config, own=bool(block["own"])) + block["end"]

    return LIMITS.sub(_limits, BLOCK.sub(fill, page))


def _limits(block: re.Match[str]) -> str:
    """A server's limits, with their units, as settings of its kind are shown."""
    module, _, name = block["name"].rpartition(".")
    fields = getattr(import_module(module), name).model_fields
    lines = ["| setting | default | meaning |\n|---|---|---|\n"]
    for key, field in fields.items():
        shown = next(each for each in field.metadata if hasattr(each, "group"))
        if shown.group == "Limits":
            lines.append(f"| `{key}` | {field.default:,} {shown.unit} | {field.description} |\n")
    return block["begin"] + "".join(lines) + block["end"]


def table(config: type[BaseModel], *, own: bool = False) -> str:
    """The settings of a config class as a Markdown table."""
    return HEADER + "".join(map(_line, setting_rows(config, own=own, code="`{}`".format)))


def _line(row: SettingRow) -> str:
    cells = [f"`{row.key}`", row.type, row.default, row.description]
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |\n"


def main() -> None:
    for path in sorted(DOCS.rglob("*.md")):
        page = path.read_text(encoding="utf-8")
        fresh = with_tables(page)
        if fresh != page:
            path.write_text(fresh, encoding="utf-8")
            print(f"{path.relative_to(DOCS.parent)}: settings regenerated")


if __name__ == "__main__":
    main()
