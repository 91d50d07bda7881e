"""Which shards are a process's own: `--part 3/64` is the fourth of 64 parts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from constitution.errors import UserError


@dataclass(frozen=True, slots=True)
class Part:
    """Every n-th shard, from the index-th on; parts are counted from 0, as Slurm's arrays are."""

    index: int = 0
    parts: int = 1

    @classmethod
    def parse(cls, text: str) -> Part:
        """A part as a command is given it. Raises UserError."""
        found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if not found or int(found[1]) >= int(found[2]):
            raise UserError(
                f"invalid --part: {text!r}; give I/N with I from 0 to N-1, as in 0/8 to 7/8, or "
                "$SLURM_ARRAY_TASK_ID/8"
            )
        return cls(int(found[1]), int(found[2]))

    def of(self, names: Sequence[str]) -> list[str]:
        """The names that are this part's, in order."""
        return list(names[self.index :: self.parts])


WHOLE = Part()
