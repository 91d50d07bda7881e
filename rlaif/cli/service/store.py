"""`rlaif store …`: statistics, cleanup and export of the store of the judge's reads."""

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
    help="Inspect and clean the store of the judge's reads; servers may run meanwhile.",
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
    """Show the number, size and age of reads and writings."""
    import json
    from dataclasses import asdict

    from judge_service.store.maintenance import summarize

    summary = summarize(_place(store))
    if as_json:
        print(json.dumps(asdict(summary)))
        return
    say(f"{summary.place}: schema {summary.schema}, {size_text(summary.bytes)} on disk")
    if summary.unused_bytes:
        say(f"unused: {size_text(summary.unused_bytes)}; `rlaif store gc` frees them")
    for kind in ("reads", "writings"):
        say(f"{kind:8}  {_kind_text(getattr(summary, kind))}")


def _kind_text(kind: RowStats) -> str:
    text = f"{kind.rows:,}, about {size_text(kind.bytes)}"
    if kind.oldest is not None and kind.newest is not None:
        text += f", stored from {_day(kind.oldest)} to {_day(kind.newest)}"
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
            help="Delete rows older than this, such as 30d; units s, m, h, d, w. Rows of unknown "
            "age are deleted too.",
            metavar="AGE",
        ),
    ] = "",
    max_bytes: Annotated[
        str,
        typer.Option(
            help="Delete the oldest rows until the rest takes about this much: 1GiB, 500MB.",
            metavar="SIZE",
        ),
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be deleted, delete nothing.")
    ] = False,
) -> None:
    """Delete old rows and free their space; deleted reads are computed again when requested.

    A server may run meanwhile. Its commits wait at the end, while a file is rewritten, which needs
    the file's size once more on disk. A database keeps the space for new rows; sizes are then
    those of its rows.
    """
    from judge_service.store.base import display_name
    from judge_service.store.maintenance import summarize, sweep
    from rlaif.progress import progress

    if not older_than and not max_bytes:
        raise UserError("no limit given: use --older-than 30d, --max-bytes 1GiB or both")
    # Everything is validated before the first row is deleted.
    place = _place(store)
    age = parse_age(older_than) if older_than else None
    size = parse_size(max_bytes) if max_bytes else None
    if dry_run:
        swept = sweep(place, older_than=age, max_bytes=size, dry_run=True)
        action = "would delete"
    else:
        before = summarize(place)
        total = before.reads.rows + before.writings.rows
        with progress("looking through the store", total, "rows") as report:
            swept = sweep(place, older_than=age, max_bytes=size, progress=report)
        action = "deleted"
    say(
        f"{display_name(place)}: {action} {swept.reads:,} reads and {swept.writings:,} writings, "
        f"{size_text(swept.bytes_before)} → {'about ' if dry_run else ''}"
        f"{size_text(swept.bytes_after)}"
    )


# ── export ───────────────────────────────────────────────────────────────────────────────────


@app.command(epilog="Example: rlaif store export --out reads.jsonl")
def export(
    out: OutFile,
    store: StorePlace = None,
    writings: Annotated[
        bool,
        typer.Option(
            "--writings", help="Include the judge's texts: rationales, critiques, revisions."
        ),
    ] = False,
) -> None:
    """Write keys and log-probabilities as JSON lines, a snapshot of one moment.

    A read is {"kind": "read", "key", "logprobs", "prompt_tokens", "created"}: the key is the digest
    of model and prompt, log-probabilities are in the order of the labels, created is in seconds
    since 1970 (0: unknown). The store holds no prompts, so none is exported.
    """
    from judge_service.store.maintenance import as_line, rows, summarize
    from rlaif.data.records import atomic_open
    from rlaif.progress import progress

    place = _place(store)
    if out.suffix != ".jsonl":
        raise UserError(f"{out}: rows are exported as JSON lines; --out must end in .jsonl")
    # Written under a temporary name, and renamed when complete.
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
    """Seconds of an age such as 30d. Raises UserError for an invalid one."""
    return _parse(text, _SECONDS, "--older-than", "a number and s, m, h, d or w, such as 30d")


def parse_size(text: str) -> int:
    """Bytes of a size such as 500MB. Raises UserError for an invalid one."""
    return int(_parse(text, _BYTES, "--max-bytes", f"a number and one of {', '.join(_BYTES)}"))


def _parse(text: str, units: dict[str, int], flag: str, wanted: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)", text.strip())
    if match is None or match[2] not in units:
        raise UserError(f"invalid {flag} {text!r}: expected {wanted}")
    return float(match[1]) * units[match[2]]


def size_text(size: float) -> str:
    """A size such as 12 B or 3.4 MB, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _place(store: str | None) -> Location:
    from rlaif.models.catalog import cache_folder

    return store or cache_folder() / "reads.sqlite"


def say(text: Any) -> None:
    """Print text to standard output as it is: no markup, colors or line breaks are added."""
    output().print(text, markup=False, highlight=False, soft_wrap=True)
