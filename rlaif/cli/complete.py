"""What the shell completes beside commands and flags: names of models, constitutions and recipes.

Called by the completion that `rlaif --install-completion` sets up, once per press of the key, so
each function imports what it needs, and no more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources

Completions = list[tuple[str, str]]  # (word, help)


@dataclass(frozen=True, slots=True)
class Completed:
    """A completed word of `rlaif serve`, with the attributes that Typer's shells read."""

    value: str
    help: str = ""
    type: str = "plain"


def models(incomplete: str) -> Completions:
    """Short names of models, with what they are."""
    from rlaif.models.catalog import KNOWN

    return [(name, known.title) for name, known in KNOWN.items() if name.startswith(incomplete)]


def constitutions(incomplete: str) -> Completions:
    """Names of the constitutions that ship."""
    return _shipped("constitution", "library", incomplete)


def recipes(incomplete: str) -> Completions:
    """Names of the recipes that ship."""
    return _shipped("rlaif.pipeline.recipes", "", incomplete)


def prompts(incomplete: str) -> Completions:
    """Names of the prompt sets that ship."""
    from rlaif.data.prompts import SHIPPED

    return [(name, "the prompts that ship") for name in SHIPPED if name.startswith(incomplete)]


def _shipped(package: str, folder: str, incomplete: str) -> Completions:
    """The YAML files of a package's folder that begin with `incomplete`, without their suffix."""
    files = (resources.files(package) / folder).iterdir()
    names = sorted(each.name.removesuffix(".yaml") for each in files if each.name.endswith(".yaml"))
    return [(name, "") for name in names if name.startswith(incomplete)]


def serve(before: Sequence[str], incomplete: str) -> list[Completed]:
    """The flags of `rlaif serve`, or the values of the flag that stands before the word.

    before: the words of the command line between `serve` and the incomplete one. Nothing is
    returned for files: shells then complete those themselves.
    """
    from judge_service.settings_flags import setting_flags

    flags = {name: flag for flag in setting_flags() for name in flag.names}
    last = before[-1] if before else ""
    flag = flags.get(last)
    if flag is None or not flag.metavar:
        if last == "--config":
            return []
        return [each for each in _serve_flags() if each.value.startswith(incomplete)]
    named = {"model": models, "constitutions": constitutions}
    if flag.field in named:
        return [Completed(word, help) for word, help in named[flag.field](incomplete)]
    return [Completed(choice) for choice in flag.choices if choice.startswith(incomplete)]


def _serve_flags() -> Iterator[Completed]:
    """Every flag of `rlaif serve`, with the first sentence of its help."""
    from judge_service.settings_flags import OTHER_FLAGS, setting_flags

    for name, help in OTHER_FLAGS.items():
        yield Completed(name, help)
    for flag in setting_flags():
        for name in (*flag.names, *([flag.negation] if flag.negation else [])):
            yield Completed(name, flag.help.partition(". ")[0])
