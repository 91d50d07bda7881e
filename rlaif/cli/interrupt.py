"""What Ctrl-C leaves behind: what each command has saved, and how to go on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

AGAIN = "run the same command again to resume"

# Command → what it has saved when it is interrupted. Names in braces are the command's parameters.
SAVED: dict[str, str] = {
    "sample": "the responses sampled so far are in {out}.unfinished",
    "label": "the judge's answers so far are saved in {out}",
    "revise": "the rounds written so far are saved in {out}",
    "redteam attack": "the responses and the judge's ratings so far are saved in {out}",
    "redteam check": "the responses and the judge's ratings so far are saved in {out}",
    "evaluate": "the judge's answers so far are saved in {out}",
    "run": "finished stages, and what the current one has saved, are in {out}",
    "train sft": "checkpoints written so far are in {out}/checkpoints",
    "train reward": "checkpoints written so far are in {out}/checkpoints",
    "train dpo": "checkpoints written so far are in {out}/checkpoints",
    "train ppo": "checkpoints written so far are in {out}/checkpoints",
    "train rest": "checkpoints written so far are in {out}/checkpoints",
    "judge calibrate": "the judge's answers so far are saved in the cache folder",
    "constitution diff": "the judge's answers so far are saved beside {labels}",
    "models fetch": "the parts fetched so far are kept in the cache folder",
}


def after_interrupt(command: str, parameters: Mapping[str, Any]) -> str:
    """The message for an interrupted command. command: its words, such as "train dpo"."""
    if command not in SAVED or parameters.get("dry_run"):
        return "stopped; there is nothing to resume"
    named = dict(parameters)
    again = AGAIN
    if named.get("resume") == "never":
        again = "run the same command without --resume never to resume"
    if command == "run" and named.get("out") is None:
        named["out"] = Path("runs") / _recipe_name(str(named.get("recipe", "")))
    return f"stopped; {SAVED[command].format_map(named)}; {again}"


def _recipe_name(recipe: str) -> str:
    """The name in a recipe's file; that of the file where it cannot be read any more."""
    from constitution.errors import UserError
    from rlaif.pipeline.recipe import Recipe

    try:
        return Recipe.load(recipe).name
    except UserError:
        return Path(recipe).stem
