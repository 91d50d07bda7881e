"""Prometheus metrics of a judge server. docs/metrics.md documents each of them.

The parts of the server report events to one of two sinks:

    NO_METRICS                  ignores them: the default everywhere
    ServerMetrics(host, port)   counts them and serves the page, from `open` to `close`

Each server has its own registry. Labels are bounded: methods, codes, verdicts and reasons by the
API, constitutions by what is served, callers by MAX_CALLERS. No label holds text from a request.

Left out: vLLM's own metrics. It counts in the process-wide registry at every engine step, so the
engine runs with its statistics off. For an engine behind an OpenAI-compatible server, scrape that
server.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING, Literal, TypeVar, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from judge_service.engine import LabelLogprobs
from judge_service.observability.logs import dropped_lines
from judge_service.observability.metrics_page import PageServer
from judge_service.server_info import ConstitutionSummary
from judge_service.store.base import StoreError, StoreStats
from judge_service.types import Judgment, Score, Unjudged, UnjudgedReason, Verdict, Writing

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

MAX_CALLERS = 100
"""Callers with their own label; later ones share the label OTHER_CALLERS."""
OTHER_CALLERS = "other"

_STORE_SECONDS = 15.0  # between polls of the store's size: counting millions of rows takes a while
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_MASS = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
_GAP = (0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)

Work = Literal["read", "write"]

_Labeled = TypeVar("_Labeled", Counter, Gauge)


class NoMetrics:
    """The events of a server; this base class ignores them."""

    def call_began(self) -> None:
        """A call of ours has arrived; health and reflection do not count."""

    def call_ended(self, method: str, code: str, seconds: float, caller: str) -> None:
        """A call has ended. method: the RPC's bare name; code: the gRPC status name."""

    def stream_items(self, change: int) -> None:
        """The number of stream items accepted and not yet answered has changed by this much."""

    def judged(self, result: Judgment | Score | Writing | Unjudged) -> None:
        """The judge has answered, or has abstained with a reason."""

    def read_done(self, answer: LabelLogprobs) -> None:
        """A read was answered, computed or from the store."""

    def in_engine(self, work: Work) -> AbstractContextManager[None]:
        """Context of one engine request, from submission to answer."""
        return nullcontext()

    def tokens_read(self, admitted: int, rejected: int, *, stale: bool) -> None:
        """The token file was read, with this many entries in force and this many rejected.

        stale: the file was unusable; the counts are those of its last usable version.
        """

    def watch_server(
        self, alive: Callable[[], bool], constitutions: Callable[[], Iterable[ConstitutionSummary]]
    ) -> None:
        """Functions to call at each scrape: is the engine alive, which constitutions are served."""

    def watch_store(
        self, stats: Callable[[], Awaitable[StoreStats]], damaged: Callable[[], int]
    ) -> None:
        """Poll the store for its size from now on. Needs a running event loop.

        damaged: rows and look-ups so far that met damage; called at each scrape.
        """

    def open(self) -> None:
        """Start serving the page. Raises OSError when the address is unavailable."""

    async def close(self) -> None:
        """Stop serving the page. Closing twice is harmless."""


NO_METRICS = NoMetrics()


def metrics_on(host: str, port: int | None) -> NoMetrics:
    """The metrics of a server: ServerMetrics on this address, NO_METRICS if the port is None."""
    return NO_METRICS if port is None else ServerMetrics(host, port)


class ServerMetrics(NoMetrics):
    """Counts events and serves them on http://host:port/metrics; port 0 picks a free one.

    registry: the Prometheus registry behind the page. address: host:port while the page is open.
    docs/metrics.md describes the metrics, whose names begin with `rlaif_judge_`.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self._host, self._port = host, port
        self._page: tuple[PageServer, threading.Thread] | None = None
        self._store_watch: asyncio.Task[None] | None = None
        self._callers: set[str] = set()
        self.address = ""
        self.registry = _Registry()
        self._create_call_metrics()
        self._create_judgment_metrics()
        self._create_engine_metrics()
        ProcessCollector(registry=self.registry)

    def call_began(self) -> None:
        """Counts in `calls_in_progress`."""
        self._calls_in_progress.inc()

    def call_ended(self, method: str, code: str, seconds: float, caller: str) -> None:
        """Counts in `calls_total` and `call_seconds`; beyond MAX_CALLERS the caller is "other"."""
        self._calls_in_progress.dec()
        self._calls.labels(method, code, self._bounded(caller)).inc()
        self._call_seconds.labels(method).observe(seconds)

    def stream_items(self, change: int) -> None:
        """Counts in `stream_items_in_flight`."""
        self._stream_items.inc(change)

    def judged(self, result: Judgment | Score | Writing | Unjudged) -> None:
        """Counts in `abstentions_total` or `verdicts_total`, and how far the two orders agree."""
        if isinstance(result, Unjudged):
            self._abstentions[result.reason].inc()
        elif isinstance(result, Judgment):
            self._verdicts[result.verdict].inc()
            if result.position_consistent is not None:
                self._positions["yes" if result.position_consistent else "no"].inc()
            if result.order_gap is not None:
                self._order_gap.observe(result.order_gap)

    def read_done(self, answer: LabelLogprobs) -> None:
        """Counts in `label_mass`, `reads_total` and, for a computed read, `prompt_tokens_total`."""
        mass = sum(map(math.exp, answer.logprobs))
        if not math.isnan(mass):  # a NaN would stay in the histogram's sum forever
            self._label_mass.observe(mass)
        self._reads["stored" if answer.stored else "computed"].inc()
        if not answer.stored:
            self._prompt_tokens["cached"].inc(answer.cached_tokens)
            self._prompt_tokens["computed"].inc(answer.prompt_tokens - answer.cached_tokens)

    def in_engine(self, work: Work) -> AbstractContextManager[None]:
        """Counts in `engine_requests` for as long as the context is open."""
        return self._engine_requests[work].track_inprogress()

    def tokens_read(self, admitted: int, rejected: int, *, stale: bool) -> None:
        """Sets `token_entries` and `tokens_stale`."""
        self._token_entries.labels("admitted").set(admitted)
        self._token_entries.labels("rejected").set(rejected)
        self._tokens_stale.set(stale)

    def watch_server(
        self, alive: Callable[[], bool], constitutions: Callable[[], Iterable[ConstitutionSummary]]
    ) -> None:
        """Sets `engine_alive` and the served constitutions at each scrape."""
        self._engine_alive.set_function(lambda: float(alive()))
        self.registry.register(_Constitutions(constitutions))

    def watch_store(
        self, stats: Callable[[], Awaitable[StoreStats]], damaged: Callable[[], int]
    ) -> None:
        """Sets `store_entries` and `store_bytes` every 15 s; ignores errors of the store."""
        self._store_damaged.set_function(lambda: float(damaged()))
        self._store_watch = asyncio.create_task(self._poll_store(stats))

    def open(self) -> None:
        """Serve the page from a thread, and set `address`. Raises OSError for a busy port."""
        server = PageServer.of(self.registry, self._host, self._port)
        thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
        thread.start()
        self._page = server, thread
        self.address = f"{self._host}:{server.server_port}"

    async def close(self) -> None:
        """Stop polling the store and serving the page."""
        if self._store_watch is not None:
            self._store_watch.cancel()
        if self._page is not None:
            server, thread = self._page
            self._page = None
            await asyncio.to_thread(server.shutdown)
            server.server_close()
            await asyncio.to_thread(thread.join)

    def _create_call_metrics(self) -> None:
        self._calls = self._counter("calls_total", "Calls ended.", "method", "code", "caller")
        self._call_seconds = self._histogram(
            "call_seconds", "Time from a call's arrival to its end.", _SECONDS, "method"
        )
        self._calls_in_progress = self._gauge("calls_in_progress", "Calls started and not ended.")
        self._stream_items = self._gauge(
            "stream_items_in_flight", "Stream items accepted and not yet answered."
        )
        self._token_entries = self._gauge(  # no series without a token file
            "token_entries", "Entries of the token file, by whether they are in force.", "state"
        )
        self._tokens_stale = self._gauge(
            "tokens_stale",
            "1 while the token file is unusable and its last usable version is in force.",
        )

    def _create_judgment_metrics(self) -> None:
        self._verdicts = _each(self._counter("verdicts_total", "Pairs judged.", "verdict"), Verdict)
        self._abstentions = _each(
            self._counter("abstentions_total", "Answers without a label, by reason.", "reason"),
            UnjudgedReason,
        )
        self._positions = _each(
            self._counter(
                "position_checks_total",
                "Pairs read in both orders, by whether both orders name the same response.",
                "consistent",
            ),
            ("yes", "no"),
        )
        self._order_gap = self._histogram(
            "order_gap", "Difference in P(A is better) between the two orders of a pair.", _GAP
        )

    def _create_engine_metrics(self) -> None:
        self._engine_requests = _each(
            self._gauge("engine_requests", "Requests in the engine, not yet answered.", "work"),
            get_args(Work),
        )
        self._label_mass = self._histogram(
            "label_mass", "Total probability of the labels of a read.", _MASS
        )
        self._reads = _each(
            self._counter("reads_total", "Reads answered.", "source"), ("computed", "stored")
        )
        self._prompt_tokens = _each(
            self._counter(
                "prompt_tokens_total",
                "Prompt tokens of computed reads; cached: taken from the engine's prefix cache.",
                "kind",
            ),
            ("computed", "cached"),
        )
        self._gauge("start_time_seconds", "When counting started.").set_to_current_time()
        self._engine_alive = self._gauge("engine_alive", "1 while the engine is alive, else 0.")
        self._store_entries = self._gauge("store_entries", "Entries of the store.", "kind")
        self._store_bytes = self._gauge("store_bytes", "Size of the store's file.")
        self._store_damaged = self._gauge(
            "store_damaged", "Look-ups and commits that met a damaged row or file."
        )
        dropped = self._gauge("log_lines_dropped", "Log lines dropped, as nobody read the log.")
        dropped.set_function(dropped_lines)

    def _bounded(self, caller: str) -> str:
        if caller not in self._callers:
            if len(self._callers) >= MAX_CALLERS:
                return OTHER_CALLERS
            self._callers.add(caller)
        return caller

    async def _poll_store(self, stats: Callable[[], Awaitable[StoreStats]]) -> None:
        while True:
            with suppress(StoreError):  # calls that need the store report its errors
                size = await stats()
                self._store_entries.labels("read").set(size.reads)
                self._store_entries.labels("writing").set(size.writings)
                self._store_bytes.set(size.bytes)
            await asyncio.sleep(_STORE_SECONDS)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"rlaif_judge_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"rlaif_judge_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(
            f"rlaif_judge_{name}", text, labels, buckets=buckets, registry=self.registry
        )


def _each(metric: _Labeled, values: Iterable[str]) -> dict[str, _Labeled]:
    """All series of a single-label metric, created at once: a rate needs a first value."""
    return {str(value): metric.labels(str(value)) for value in values}


class _Registry(CollectorRegistry):
    """A registry without the creation time of each series, which would double the page."""

    def collect(self) -> Iterator[Metric]:
        for metric in super().collect():
            metric.samples = [s for s in metric.samples if not s.name.endswith("_created")]
            yield metric


class _Constitutions(Collector):
    """Collects the served constitutions at each scrape, as they may be reloaded at any time."""

    def __init__(self, constitutions: Callable[[], Iterable[ConstitutionSummary]]) -> None:
        self._constitutions = constitutions

    def collect(self) -> Iterator[Metric]:
        served = GaugeMetricFamily(
            "rlaif_judge_constitution_info",
            "1 for each constitution served.",
            labels=("name", "version", "sha256"),
        )
        for one in self._constitutions():
            served.add_metric((one.name, one.version, one.sha256[:12]), 1)
        yield served
