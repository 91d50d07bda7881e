"""`rlaif store …`: what the judge has read, counted, thinned out, and taken elsewhere."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from constitution.errors import UserError
from rlaif.cli.options import AsJson, OutFile, output

if TYPE_CHECKING:
    from judge_service.store.base import Location
    from judge_service.store.maintenance import RowStats

app = typer.Typer(
    help="Look after what keeps the judge's reads, a file or a database; servers may go on.",
    no_args_is_help=True,
)

StorePlace = Annotated[
    str | None,
    typer.Option(
        "--store",
        envvar="RLAIF_STORE",
        help="A file, or postgresql+psycopg://user@host/database; by default the file of `rlaif "
        "serve`, reads.sqlite in the cache folder.",
    ),
]

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_BYTES = {
    "B": 1,
    **{f"{letter}B": 1000**n for n, letter in enumerate("kMGT", start=1)},
    **{f"{letter}iB": 1024**n for n, letter in enumerate("KMGT", start=1)},
}


# ── stats ────────────────────────────────────────────────────────────────────────────────────


@app.command(epilog="Example: rlaif store stats --store /var/lib/rlaif/reads.sqlite")
def stats(store: StorePlace = None, as_json: AsJson = False) -> None:
    """How many reads and writings there are, how large, and how old."""
    import json
    from dataclasses import asdict

    from judge_service.store.maintenance import summarize

    found = summarize(_place(store))
    if as_json:
        print(json.dumps(asdict(found)))
        return
    say(f"{found.place}: schema {found.schema}, {size_text(found.bytes)} on the disk")
    if found.unused_bytes:
        say(f"of these unused: {size_text(found.unused_bytes)}; `rlaif store gc` gives them back")
    for kind in ("reads", "writings"):
        say(f"{kind:8}  {_kind_text(getattr(found, kind))}")


def _kind_text(kind: RowStats) -> str:
    text = f"{kind.rows:,}, about {size_text(kind.bytes)}"
    if kind.oldest is not None and kind.newest is not None:
        text += f", kept from {_day(kind.oldest)} to {_day(kind.newest)}"
    if kind.without_age:
        text += f", {kind.without_age:,} of unknown age (from before schema 2)"
    return text


def _day(seconds: int) -> str:
    from datetime import UTC, datetime

    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


# ── gc ───────────────────────────────────────────────────────────────────────────────────────


@app.command(
    epilog="Examples: rlaif store gc --older-than 30d   |   rlaif store gc --max-bytes 1GiB "
    "--dry-run   |   rlaif store gc --older-than 90d --max-bytes 20GB"
)
def gc(
    store: StorePlace = None,
    older_than: Annotated[
        str,
        typer.Option(
            help="Delete what was kept longer ago than this: 30d; s, m, h, d or w. Rows of unknown "
            "age go too.",
            metavar="AGE",
        ),
    ] = "",
    max_bytes: Annotated[
        str,
        typer.Option(
            help="Delete the oldest until the rest needs about this much: 1GiB, 500MB.",
            metavar="SIZE",
        ),
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go, delete nothing.")
    ] = False,
) -> None:
    """Delete old rows and give their space back; what was deleted is computed again when asked for.

    A server may go on meanwhile. Its commits wait while a file is written anew at the end, which
    takes the file's size once more on the disk. A database keeps the space for new rows; sizes are
    then what its rows need.
    """
    from judge_service.store.base import display_name
    from judge_service.store.maintenance import summarize, sweep
    from rlaif.progress import progress

    if not older_than and not max_bytes:
        raise UserError("nothing says what is old: give --older-than 30d, --max-bytes 1GiB or both")
    place = _place(store)
    age = parse_age(older_than) if older_than else None
    size = parse_size(max_bytes) if max_bytes else None
    if dry_run:
        found = sweep(place, older_than=age, max_bytes=size, dry_run=True)
        told = "would delete"
    else:
        before = summarize(place)
        total = before.reads.rows + before.writings.rows
        with progress("looking through the store", total, "rows") as report:
            found = sweep(place, older_than=age, max_bytes=size, progress=report)
        told = "deleted"
    say(
        f"{display_name(place)}: {told} {found.reads:,} reads and {found.writings:,} writings, "
        f"{size_text(found.bytes_before)} → {'about ' if dry_run else ''}"
        f"{size_text(found.bytes_after)}"
    )


# ── export ───────────────────────────────────────────────────────────────────────────────────


@app.command(epilog="Example: rlaif store export --out reads.jsonl")
def export(
    out: OutFile,
    store: StorePlace = None,
    writings: Annotated[
        bool,
        typer.Option("--writings", help="Also what the judge wrote: rationales, revisions; text."),
    ] = False,
) -> None:
    """Write keys and log-probabilities as JSON lines, as they are at one moment.

    A read is {"kind": "read", "key", "logprobs", "prompt_tokens", "created"}: the key is the digest
    of model and prompt, log-probabilities are in the order of the labels, created is in seconds
    since 1970 (0: unknown). No prompt is in the store, so none is exported.
    """
    from judge_service.store.maintenance import as_line, rows, summarize
    from rlaif.data.records import atomic_open
    from rlaif.progress import progress

    place = _place(store)
    if out.suffix != ".jsonl":
        raise UserError(f"{out}: rows are exported as JSON lines; --out must end in .jsonl")
    before = summarize(place)
    total, done = before.reads.rows + before.writings.rows * writings, 0
    with progress("exporting", total, "rows") as report, atomic_open(out) as lines:
        for row in rows(place, writings=writings):
            lines.write(as_line(row))
            done += 1
            if done % 1000 == 0:
                report(min(done, total))
        report(total)
    say(f"{done:,} rows: {out}")


# ── shared ───────────────────────────────────────────────────────────────────────────────────


def parse_age(text: str) -> float:
    """Seconds. Raises UserError."""
    return _parse(text, _SECONDS, "--older-than", "a number and s, m, h, d or w, as in 30d")


def parse_size(text: str) -> int:
    """Bytes. Raises UserError."""
    return int(_parse(text, _BYTES, "--max-bytes", f"a number and one of {', '.join(_BYTES)}"))


def _parse(text: str, units: dict[str, int], flag: str, wanted: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)", text.strip())
    if match is None or match[2] not in units:
        raise UserError(f"{flag} {text!r} is not understood: write {wanted}")
    return float(match[1]) * units[match[2]]


def size_text(size: float) -> str:
    """As 12 B, 3.4 MB: powers of 1000, as disks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _place(store: str | None) -> Location:
    from rlaif.models.catalog import cache_folder

    return store or cache_folder() / "reads.sqlite"


def say(text: Any) -> None:
    output().print(text, markup=False, highlight=False, soft_wrap=True)
