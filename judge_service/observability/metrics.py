"""What a judge server counts, as a page for Prometheus. docs/metrics.md says what each number is.

The parts of the server report events; they never ask whether anybody counts:

    NO_METRICS            counts nothing: the default everywhere
    ServerMetrics(host, port)   counts, and shows the page from `open` to `close`

Each server has a registry of its own. Labels are bounded: methods, codes, verdicts and reasons by
the contract, constitutions by what is served, callers by MAX_CALLERS. No label holds text that came
in a request.

Left out: the metrics of vLLM itself. It would count in the process's one global registry, at every
step of the engine, so the engine runs with its statistics off; of an engine behind an
OpenAI-compatible server, scrape that server.
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
from prometheus_client.exposition import start_http_server
from prometheus_client.registry import Collector

from judge_service.engine import LabelLogprobs
from judge_service.server_info import ConstitutionSummary
from judge_service.store.base import StoreError, StoreStats
from judge_service.types import Judgment, Score, Unjudged, UnjudgedReason, Verdict, Writing

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer

    from prometheus_client.metrics_core import Metric

MAX_CALLERS = 100
"""Callers with a label of their own; those that come later share the label OTHER_CALLERS."""
OTHER_CALLERS = "other"

_STORE_SECONDS = 15.0  # between looks at the store's size: counting millions of rows takes a while
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_MASS = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
_GAP = (0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)

Work = Literal["read", "write"]

_Labeled = TypeVar("_Labeled", Counter, Gauge)


class NoMetrics:
    """Every event of a server, and nobody who counts it."""

    def call_began(self) -> None:
        """One of our calls has come in; health and reflection do not count."""

    def call_ended(self, method: str, code: str, seconds: float, caller: str) -> None:
        """That call is over. method: the RPC's bare name; code: gRPC's name of its status."""

    def stream_items(self, change: int) -> None:
        """So many more items of streams are taken and not yet answered; negative: fewer."""

    def judged(self, found: Judgment | Score | Writing | Unjudged) -> None:
        """The judge has answered, or says why it cannot."""

    def read_done(self, answer: LabelLogprobs) -> None:
        """A read was answered, computed or from the store."""

    def in_engine(self, work: Work) -> AbstractContextManager[None]:
        """Around what the engine is asked: from being handed over until it is answered."""
        return nullcontext()

    def tokens_read(self, admitted: int, rejected: int, *, stale: bool) -> None:
        """The file of tokens was read: so many of its entries are in force, so many are not.
        stale: it could not be used, and the counts are of the time before."""

    def watch_server(
        self, alive: Callable[[], bool], laws: Callable[[], Iterable[ConstitutionSummary]]
    ) -> None:
        """Whom to ask, at each scrape, for the engine's life and the constitutions served."""

    def watch_store(self, stats: Callable[[], Awaitable[StoreStats]]) -> None:
        """Ask the store for its size now and then from now on. Needs a running event loop."""

    def open(self) -> None:
        """Show the page. Raises OSError when one cannot listen there."""

    async def close(self) -> None:
        """Take the page away. Closing twice is harmless."""


NO_METRICS = NoMetrics()


def metrics_on(host: str, port: int | None) -> NoMetrics:
    """What counts for a server that shows its page there; None: on no port, so nothing counts."""
    return NO_METRICS if port is None else ServerMetrics(host, port)


class ServerMetrics(NoMetrics):
    """Counts, and shows the page on http://host:port/metrics. A port of 0 takes a free one.

    `registry` collects what the page shows; `address` is host:port while the page is open.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self._host, self._port = host, port
        self._page: tuple[WSGIServer, threading.Thread] | None = None
        self._store_watch: asyncio.Task[None] | None = None
        self._callers: set[str] = set()
        self.address = ""
        self.registry = _Registry()
        self._count_calls()
        self._count_judgments()
        self._count_engine()
        ProcessCollector(registry=self.registry)

    def call_began(self) -> None:
        self._calls_in_progress.inc()

    def call_ended(self, method: str, code: str, seconds: float, caller: str) -> None:
        self._calls_in_progress.dec()
        self._calls.labels(method, code, self._bounded(caller)).inc()
        self._call_seconds.labels(method).observe(seconds)

    def stream_items(self, change: int) -> None:
        self._stream_items.inc(change)

    def judged(self, found: Judgment | Score | Writing | Unjudged) -> None:
        if isinstance(found, Unjudged):
            self._abstentions[found.reason].inc()
        elif isinstance(found, Judgment):
            self._verdicts[found.verdict].inc()
            if found.position_consistent is not None:
                self._positions["yes" if found.position_consistent else "no"].inc()
            if found.order_gap is not None:
                self._order_gap.observe(found.order_gap)

    def read_done(self, answer: LabelLogprobs) -> None:
        mass = sum(map(math.exp, answer.logprobs))
        if not math.isnan(mass):  # one would stay in the sum for ever
            self._label_mass.observe(mass)
        self._reads["stored" if answer.stored else "computed"].inc()
        if not answer.stored:
            self._prompt_tokens["cached"].inc(answer.cached_tokens)
            self._prompt_tokens["computed"].inc(answer.prompt_tokens - answer.cached_tokens)

    def in_engine(self, work: Work) -> AbstractContextManager[None]:
        return self._engine_requests[work].track_inprogress()

    def tokens_read(self, admitted: int, rejected: int, *, stale: bool) -> None:
        self._token_entries.labels("admitted").set(admitted)
        self._token_entries.labels("rejected").set(rejected)
        self._tokens_stale.set(stale)

    def watch_server(
        self, alive: Callable[[], bool], laws: Callable[[], Iterable[ConstitutionSummary]]
    ) -> None:
        self._engine_alive.set_function(lambda: float(alive()))
        self.registry.register(_Constitutions(laws))

    def watch_store(self, stats: Callable[[], Awaitable[StoreStats]]) -> None:
        self._store_watch = asyncio.create_task(self._look_at_store(stats))

    def open(self) -> None:
        self._page = start_http_server(self._port, self._host, self.registry)
        self.address = f"{self._host}:{self._page[0].server_port}"

    async def close(self) -> None:
        if self._store_watch is not None:
            self._store_watch.cancel()
        if self._page is not None:
            server, thread = self._page
            self._page = None
            await asyncio.to_thread(server.shutdown)
            server.server_close()
            await asyncio.to_thread(thread.join)

    def _count_calls(self) -> None:
        self._calls = self._counter("calls_total", "Calls ended.", "method", "code", "caller")
        self._call_seconds = self._histogram(
            "call_seconds", "Time from a call's arrival to its end.", _SECONDS, "method"
        )
        self._calls_in_progress = self._gauge("calls_in_progress", "Calls begun and not ended.")
        self._stream_items = self._gauge(
            "stream_items_in_flight", "Items of streams taken and not yet answered."
        )
        self._token_entries = self._gauge(  # no series without a file of tokens
            "token_entries", "Entries of the file of tokens, by whether they are in force.", "state"
        )
        self._tokens_stale = self._gauge(
            "tokens_stale",
            "1 while the file of tokens cannot be used and an older one is in force.",
        )

    def _count_judgments(self) -> None:
        self._verdicts = _each(self._counter("verdicts_total", "Pairs judged.", "verdict"), Verdict)
        self._abstentions = _each(
            self._counter("abstentions_total", "Answers without a label, by why.", "reason"),
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
            "order_gap", "How far the two orders of a pair differ in P(A is better).", _GAP
        )

    def _count_engine(self) -> None:
        self._engine_requests = _each(
            self._gauge(
                "engine_requests", "Asked of the engine and not yet answered: its queue.", "work"
            ),
            get_args(Work),
        )
        self._label_mass = self._histogram(
            "label_mass", "Probability that the labels of a read hold together.", _MASS
        )
        self._reads = _each(
            self._counter("reads_total", "Reads answered.", "source"), ("computed", "stored")
        )
        self._prompt_tokens = _each(
            self._counter(
                "prompt_tokens_total",
                "Prompt tokens of computed reads; cached: found in the engine's prefix cache.",
                "kind",
            ),
            ("computed", "cached"),
        )
        self._gauge("start_time_seconds", "When the counting began.").set_to_current_time()
        self._engine_alive = self._gauge("engine_alive", "1 while the engine lives, else 0.")
        self._store_entries = self._gauge("store_entries", "Entries of the store.", "kind")
        self._store_bytes = self._gauge("store_bytes", "Size of the store's file.")

    def _bounded(self, caller: str) -> str:
        if caller not in self._callers:
            if len(self._callers) >= MAX_CALLERS:
                return OTHER_CALLERS
            self._callers.add(caller)
        return caller

    async def _look_at_store(self, stats: Callable[[], Awaitable[StoreStats]]) -> None:
        while True:
            with suppress(StoreError):  # those who need the store are told by it
                found = await stats()
                self._store_entries.labels("read").set(found.reads)
                self._store_entries.labels("writing").set(found.writings)
                self._store_bytes.set(found.bytes)
            await asyncio.sleep(_STORE_SECONDS)

    def _counter(self, name: str, says: str, *labels: str) -> Counter:
        return Counter(f"rlaif_judge_{name}", says, labels, registry=self.registry)

    def _gauge(self, name: str, says: str, *labels: str) -> Gauge:
        return Gauge(f"rlaif_judge_{name}", says, labels, registry=self.registry)

    def _histogram(self, name: str, says: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(
            f"rlaif_judge_{name}", says, labels, buckets=buckets, registry=self.registry
        )


def _each(metric: _Labeled, values: Iterable[str]) -> dict[str, _Labeled]:
    """The series of a metric's one label, there from the start: a rate needs a first value."""
    return {str(value): metric.labels(str(value)) for value in values}


class _Registry(CollectorRegistry):
    """Without the time at which each series was made, which doubles a page and which few read."""

    def collect(self) -> Iterator[Metric]:
        for metric in super().collect():
            metric.samples = [s for s in metric.samples if not s.name.endswith("_created")]
            yield metric


class _Constitutions(Collector):
    """Made anew at each scrape: constitutions are reloaded while the server runs."""

    def __init__(self, laws: Callable[[], Iterable[ConstitutionSummary]]) -> None:
        self._laws = laws

    def collect(self) -> Iterator[Metric]:
        served = GaugeMetricFamily(
            "rlaif_judge_constitution_info",
            "1 for each constitution served.",
            labels=("name", "version", "sha256"),
        )
        for law in self._laws():
            served.add_metric((law.name, law.version, law.sha256[:12]), 1)
        yield served
