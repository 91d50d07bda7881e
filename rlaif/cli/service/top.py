"""`rlaif top`: a live table of a judge server's metrics.

Every number is shown for two windows: between the last two polls of the metrics page, and since the
server's start. Uses only urllib and rich, so the base install can watch any server.

Left out: history (use Prometheus), and several servers in one table.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from constitution.errors import UserError
from rlaif.cli.options import AsJson, output

if TYPE_CHECKING:
    from rich.console import RenderableType

Labels = frozenset[tuple[str, str]]

_PREFIX = "rlaif_judge_"
_SECONDS_TO_ANSWER = 5.0
_NONE = "—"
_LINE = re.compile(r"(?P<name>\w+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def top(
    address: Annotated[
        str, typer.Argument(help="Address of the server's metrics.", metavar="HOST:METRICS_PORT")
    ],
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two polls.")] = 2.0,
    once: Annotated[
        bool,
        typer.Option("--once", help="Print one table and exit; the default without a terminal."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Watch a judge server: calls, reads, queue, verdicts, callers. Stop it with Ctrl-C."""
    import json
    import sys

    before = poll(address)
    if once or as_json or not sys.stdout.isatty():
        time.sleep(interval)
        view = compare(before, poll(address))
        if as_json:
            print(json.dumps({"server": address} | asdict(view)))
        else:
            output().print(render(address, view))
        return
    _watch(address, before, interval)


@dataclass(frozen=True)
class MetricsPage:
    """A metrics page at one moment; the metrics' common prefix is removed."""

    at: float  # seconds since 1970
    samples: Mapping[tuple[str, Labels], float]

    @property
    def started(self) -> float:
        """When the server started, seconds since 1970."""
        return self.sum("start_time_seconds")

    def sum(self, name: str, **labels: str) -> float:
        """Over all series of the metric that carry these labels."""
        wanted = labels.items()
        return sum(v for (n, given), v in self.samples.items() if n == name and wanted <= given)

    def values(self, name: str, label: str) -> list[str]:
        """The values of one label of a metric, sorted."""
        return sorted({dict(given)[label] for (n, given) in self.samples if n == name})


@dataclass(frozen=True)
class Window:
    """Rates and shares over some seconds. None: no event to compute it from."""

    seconds: float
    calls_per_second: float
    failed_share: float | None  # of the calls, those whose code is not OK
    call_seconds: float | None  # mean
    reads_per_second: float
    stored_share: float | None  # of the reads
    cached_share: float | None  # of the prompt tokens of computed reads
    label_mass: float | None  # mean
    position_consistency: float | None  # share of the pairs read in both orders
    verdicts: dict[str, float]  # pairs, by verdict
    abstentions: dict[str, float]  # answers, by reason


@dataclass(frozen=True)
class View:
    """The contents of the table."""

    up_seconds: float
    engine_alive: bool
    constitutions: list[str]
    calls_in_progress: int
    stream_items_in_flight: int
    engine_queue: int
    store_reads: int
    store_bytes: int
    now: Window
    since_start: Window
    callers: dict[str, dict[str, float]]  # calls, calls_per_second (now), failed


def poll(address: str) -> MetricsPage:
    """Read the page. Raises UserError if there is no page of a judge server."""
    import http.client
    import urllib.request

    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit():
        raise UserError(f"'{address}' is not host:port, such as 127.0.0.1:9464")
    url = f"http://{address}/metrics"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=_SECONDS_TO_ANSWER) as answer:
            text = answer.read().decode()
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = getattr(error, "reason", None) or error
        raise UserError(
            f"no metrics at {url} ({why}); start the server with `rlaif serve --metrics-port "
            "PORT` and give that port, not the one for calls"
        ) from None
    page = MetricsPage(time.time(), dict(parse(text)))
    if not page.started:
        raise UserError(f"{url} is not the page of a judge server; check the port")
    return page


def parse(text: str) -> Iterator[tuple[tuple[str, Labels], float]]:
    """(name, labels) and value of each sample of a page in Prometheus's text format."""
    for line in text.splitlines():
        sample = _LINE.match(line)
        if sample is not None:
            labels = ((k, _unescaped(v)) for k, v in _LABEL.findall(sample["labels"] or ""))
            name = sample["name"].removeprefix(_PREFIX)
            yield (name, frozenset(labels)), float(sample["value"])


def compare(before: MetricsPage, after: MetricsPage) -> View:
    """The state of the second page, and the changes since the first one."""
    at_start = MetricsPage(after.started, {})
    if before.started != after.started:  # another process: its counters began at 0
        before = at_start
    now = _window(before, after)
    callers = {
        caller: {
            "calls": after.sum("calls_total", caller=caller),
            "calls_per_second": _change(before, after, "calls_total", caller=caller) / now.seconds,
            "failed": after.sum("calls_total", caller=caller)
            - after.sum("calls_total", caller=caller, code="OK"),
        }
        for caller in after.values("calls_total", "caller")
    }
    served = [dict(labels) for name, labels in after.samples if name == "constitution_info"]
    return View(
        up_seconds=after.at - after.started,
        engine_alive=bool(after.sum("engine_alive")),
        constitutions=sorted(f"{each['name']} {each['version']}" for each in served),
        calls_in_progress=int(after.sum("calls_in_progress")),
        stream_items_in_flight=int(after.sum("stream_items_in_flight")),
        engine_queue=int(after.sum("engine_requests")),
        store_reads=int(after.sum("store_entries", kind="read")),
        store_bytes=int(after.sum("store_bytes")),
        now=now,
        since_start=_window(at_start, after),
        callers=callers,
    )


def _window(before: MetricsPage, after: MetricsPage) -> Window:
    def change(name: str, **labels: str) -> float:
        return _change(before, after, name, **labels)

    def mean(name: str) -> float | None:
        return _share(change(f"{name}_sum"), change(f"{name}_count"))

    # Counters only grow, so every number is a difference between the two pages.
    seconds = max(after.at - before.at, 1e-3)
    calls, reads = change("calls_total"), change("reads_total")
    tokens, pairs = change("prompt_tokens_total"), change("position_checks_total")
    return Window(
        seconds=seconds,
        calls_per_second=calls / seconds,
        failed_share=_share(calls - change("calls_total", code="OK"), calls),
        call_seconds=mean("call_seconds"),
        reads_per_second=reads / seconds,
        stored_share=_share(change("reads_total", source="stored"), reads),
        cached_share=_share(change("prompt_tokens_total", kind="cached"), tokens),
        label_mass=mean("label_mass"),
        position_consistency=_share(change("position_checks_total", consistent="yes"), pairs),
        verdicts={
            verdict: change("verdicts_total", verdict=verdict)
            for verdict in after.values("verdicts_total", "verdict")
        },
        abstentions={
            reason: change("abstentions_total", reason=reason)
            for reason in after.values("abstentions_total", "reason")
        },
    )


def _change(before: MetricsPage, after: MetricsPage, name: str, **labels: str) -> float:
    return after.sum(name, **labels) - before.sum(name, **labels)


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _unescaped(value: str) -> str:
    return re.sub(r"\\(.)", lambda match: {"n": "\n"}.get(match[1], match[1]), value)


_ROWS: tuple[tuple[str, Callable[[Window], str]], ...] = (
    ("calls per second", lambda w: f"{w.calls_per_second:.1f}"),
    ("  that failed", lambda w: _percent(w.failed_share)),
    ("  mean time", lambda w: _NONE if w.call_seconds is None else f"{w.call_seconds:.2f} s"),
    ("reads per second", lambda w: f"{w.reads_per_second:.1f}"),
    ("  from the store", lambda w: _percent(w.stored_share)),
    ("  prompt tokens cached", lambda w: _percent(w.cached_share)),
    ("label mass, mean", lambda w: _NONE if w.label_mass is None else f"{w.label_mass:.3f}"),
    ("position consistent", lambda w: _percent(w.position_consistency)),
    ("verdicts", lambda w: _mix(w.verdicts)),
    ("no label", lambda w: _mix(w.abstentions)),
)


def render(address: str, view: View, problem: str = "") -> RenderableType:
    """The view as tables for a terminal, with `problem` below them."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    engine = Text("engine alive", "green") if view.engine_alive else Text("engine DEAD", "bold red")
    constitutions = ", ".join(view.constitutions)
    uptime = f"{address}  up {_duration(view.up_seconds)}  "
    head = Text.assemble(uptime, engine, f"  {constitutions}")
    queue = Text(
        f"in progress: calls {view.calls_in_progress}, stream items {view.stream_items_in_flight}, "
        f"engine's queue {view.engine_queue}   store: {view.store_reads:,} reads, "
        f"{view.store_bytes / 2**20:,.1f} MiB"
    )
    # One row per number, one column per window.
    rows = Table("", box=None, pad_edge=False)
    rows.add_column(f"last {_duration(view.now.seconds)}", justify="right", min_width=12)
    rows.add_column("since start", justify="right", min_width=12)
    for name, shown in _ROWS:
        rows.add_row(name, shown(view.now), shown(view.since_start))
    callers = Table("caller", box=None, pad_edge=False)
    for title in ("calls per second", "calls", "failed"):
        callers.add_column(title, justify="right")
    for name, counts in sorted(view.callers.items(), key=lambda item: -item[1]["calls"]):
        callers.add_row(
            Text(name),
            f"{counts['calls_per_second']:.1f}",
            f"{counts['calls']:,.0f}",
            f"{counts['failed']:,.0f}",
        )
    parts: list[Any] = [head, queue, "", rows, "", callers]
    return Group(*parts, *([Text(problem, "bold red")] if problem else []))


def _watch(address: str, before: MetricsPage, interval: float) -> None:
    """Poll until Ctrl-C. If the server stops answering, its last table stays, with the problem."""
    from rich.live import Live

    view = compare(MetricsPage(before.started, {}), before)
    try:
        with Live(render(address, view), auto_refresh=False, screen=True) as live:
            while True:
                time.sleep(interval)
                try:
                    now = poll(address)
                except UserError as error:
                    live.update(render(address, view, str(error)), refresh=True)
                    continue
                view, before = compare(before, now), now
                live.update(render(address, view), refresh=True)
    except KeyboardInterrupt:
        return


def _percent(share: float | None) -> str:
    return _NONE if share is None else f"{share:.0%}"


def _mix(counts: Mapping[str, float]) -> str:
    """In the order of the names, which keeps a live table steady."""
    return ", ".join(f"{name} {n:,.0f}" for name, n in sorted(counts.items()) if n) or _NONE


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
