"""`rlaif labels merge`: labels of several files and folders as one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlaif.cli.options import OutFolder, output


def merge(
    sources: Annotated[
        list[Path], typer.Argument(help="Files or folders of labels, two or more; of shards, too.")
    ],
    out: OutFolder,
) -> None:
    """Merge labels of one constitution, judge and setting; each pair once.

    Others are refused with what differs, and so is a pair with two different labels.
    """
    from rlaif.labels.merge import merge as merge_labels

    done = merge_labels(sources, out)
    output().print(
        f"{done.labels} labels of {len(sources)} sources: {out}; {done.repeated} were there twice, "
        f"{done.unjudged} pairs without a label",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
