"""What the reading of a file left aside, said in one line on stderr.

hh.jsonl: 160 records (hh_rlhf); left out 3: 2 identical responses, 1 equal scores; columns not
used: margin, source
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from typing import Any

from rlaif.data.rows import Row, shown_name

_MOST_NAMES = 12


class ReadingNotes:
    """Counts of one reading of a file, or of other rows with a name (source).

    records: how many were read. left_out: how many were not used, by reason. aside: columns with
    values that were not used.
    """

    def __init__(self, source: str, format_name: str, columns: Collection[str]) -> None:
        self.records = 0
        self.left_out: Counter[str] = Counter()
        self.aside: set[str] = set()
        self._source, self._format, self._columns = source, format_name, columns

    def watch(self, rows: Iterable[Row]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the rows as they are, noting their columns."""
        for where, fields in rows:
            for name in fields.keys() - self._columns - self.aside:
                if fields[name] is not None:
                    self.aside.add(name)
            yield where, fields

    def line(self) -> str:
        """One line for users; "" where nothing was left out or aside."""
        parts = []
        if self.left_out:
            reasons = (f"{count} {reason}" for reason, count in self.left_out.most_common())
            parts.append(f"left out {self.left_out.total()}: {', '.join(reasons)}")
        names = sorted(self.aside - {"__index_level_0__"})  # pandas' row numbers in Parquet
        if names:
            more = ", ..." if len(names) > _MOST_NAMES else ""
            listed = ", ".join(shown_name(name, 40) for name in names[:_MOST_NAMES])
            parts.append(f"columns not used: {listed}{more}")
        if not parts:
            return ""
        kind = "" if self._format == "trl" else f" ({self._format})"
        return f"{self._source}: {self.records} records{kind}; {'; '.join(parts)}"

    def print(self) -> None:
        """Print the line, once per process and by the main process of a launch only."""
        if os.environ.get("RANK", "0") == "0":
            _print_once(self.line())


@lru_cache(maxsize=256)
def _print_once(line: str) -> None:
    if line:
        print(line, file=sys.stderr)
