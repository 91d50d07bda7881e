"""Tables for the terminal that never cut an identifier or a number.

Columns of names and texts are folded when there is little room, and the others stay on one line.
Where even that does not fit, each row becomes a paragraph:

    concrete-next-step
      trait: helpful; weight: 2; examples: 2
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_NAME_COLUMNS, _TEXT_COLUMNS = 12, 24  # at least; names and sentences in fewer are hard to read


def print_table(
    console: Console,
    headings: Sequence[str],
    rows: Sequence[Sequence[str | Text]],
    *,
    folded: Collection[str],
    total: Sequence[str | Text] = (),
) -> None:
    """Print rows under their headings; `folded` are the headings of names and texts.

    `total`, if given, is a last row below a line. Square brackets in cells are not markup.
    """
    from rich.table import Column, Table
    from rich.text import Text

    cells = [[_text(cell) for cell in row] for row in (*rows, *([total] if total else []))]
    widths = _widths(headings, cells, folded, console.width)
    if widths is None:
        _print_paragraphs(console, headings, cells)
        return
    columns = (
        Column(Text(heading), overflow="fold", width=width)
        for heading, width in zip(headings, widths, strict=True)
    )
    padded = _borders(len(headings), padding=1) + sum(widths) <= console.width
    table = Table(*columns, padding=(0, 1) if padded else 0)
    for place, row in enumerate(cells):
        if place == len(rows):
            table.add_section()
        fitted = zip(row, widths, headings, strict=True)
        table.add_row(*(_folded(cell, w) if h in folded else cell for cell, w, h in fitted))
    console.print(table)


def _borders(columns: int, padding: int) -> int:
    return columns + 1 + 2 * padding * columns


def _widths(
    headings: Sequence[str], cells: Sequence[Sequence[Text]], folded: Collection[str], whole: int
) -> list[int] | None:
    """The width of each column's content; None if the table does not fit into `whole` columns."""
    from rich.cells import cell_len

    natural, widths = [], []
    for place, heading in enumerate(headings):
        widest = max((row[place].cell_len for row in cells), default=0)
        longest_word = max(map(cell_len, heading.split()), default=0)
        natural.append(max(widest, cell_len(heading)))
        is_text = max((len(row[place].plain.split()) for row in cells), default=0) > 3
        readable = _TEXT_COLUMNS if is_text else _NAME_COLUMNS
        fewest = min(widest, readable) if heading in folded else widest
        widths.append(max(fewest, longest_word))
    # Without the spaces around the cells, where there is too little room for them.
    spaces = [p for p in (1, 0) if _borders(len(headings), p) + sum(widths) <= whole]
    if not spaces:
        return None
    room = whole - _borders(len(headings), spaces[0]) - sum(widths)
    # What is left goes to names first, the shortest first; then to texts, then to headings.
    for place in sorted(
        range(len(headings)), key=lambda i: (headings[i] not in folded, natural[i])
    ):
        more = min(room, natural[place] - widths[place])
        widths[place] += more
        room -= more
    return widths


def _folded(cell: Text, width: int) -> Text:
    """The cell in lines of this width, broken after hyphens and spaces where it has any."""
    from rich.text import Text

    return Text("\n".join(textwrap.wrap(cell.plain, max(1, width))), style=cell.style)


def _print_paragraphs(
    console: Console, headings: Sequence[str], cells: Sequence[Sequence[Text]]
) -> None:
    from rich.padding import Padding
    from rich.text import Text

    for name, *values in cells:
        if name.plain:  # else the row belongs to the one above
            console.print(Text.assemble(name, style="bold"), overflow="fold")
        lines: list[Text] = []
        for heading, value in zip(headings[1:], values, strict=True):
            pair = Text.assemble(f"{heading}: ", value)
            if not value.plain:
                continue
            if lines and lines[-1].cell_len + pair.cell_len + 4 <= console.width:
                lines[-1] = Text("; ").join([lines[-1], pair])
            else:
                lines.append(pair)
        for line in lines:
            console.print(Padding(line, (0, 0, 0, 2)), overflow="fold")


def _text(cell: str | Text) -> Text:
    from rich.text import Text

    return Text(cell) if isinstance(cell, str) else cell
