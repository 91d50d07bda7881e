"""`rlaif top` on real metrics pages, and on pages with known numbers."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from constitution.errors import UserError
from judge_service.engine import LabelLogprobs
from judge_service.observability.metrics import ServerMetrics
from judge_service.server_info import ConstitutionSummary
from judge_service.types import Unjudged, UnjudgedReason
from rlaif.cli.main import app
from rlaif.cli.service.top import MetricsPage, compare, parse, poll

PAGE = """\
# HELP rlaif_judge_calls_total Calls ended.
# TYPE rlaif_judge_calls_total counter
rlaif_judge_calls_total{caller="a \\"quoted\\\\ name",code="OK",method="ComparePair"} 30.0
rlaif_judge_calls_total{caller="bob",code="OK",method="RankCandidates"} 8.0
rlaif_judge_calls_total{caller="bob",code="UNAVAILABLE",method="ComparePair"} 2.0
rlaif_judge_call_seconds_sum{method="ComparePair"} 20.0
rlaif_judge_call_seconds_count{method="ComparePair"} 40.0
rlaif_judge_reads_total{source="computed"} 60.0
rlaif_judge_reads_total{source="stored"} 20.0
rlaif_judge_prompt_tokens_total{kind="computed"} 100.0
rlaif_judge_prompt_tokens_total{kind="cached"} 300.0
rlaif_judge_label_mass_sum 72.0
rlaif_judge_label_mass_count 80.0
rlaif_judge_position_checks_total{consistent="yes"} 9.0
rlaif_judge_position_checks_total{consistent="no"} 3.0
rlaif_judge_verdicts_total{verdict="A"} 7.0
rlaif_judge_verdicts_total{verdict="B"} 5.0
rlaif_judge_abstentions_total{reason="too_long"} 1.0
rlaif_judge_engine_requests{work="read"} 5.0
rlaif_judge_engine_requests{work="write"} 1.0
rlaif_judge_engine_alive 1.0
rlaif_judge_start_time_seconds 1000.0
"""


def page(at: float, **changed: float) -> MetricsPage:
    """PAGE as it was at `at`, with all series of a metric set to another value."""
    samples = {key: changed.get(key[0], value) for key, value in parse(PAGE)}
    return MetricsPage(at, samples)


@pytest.fixture
def metrics() -> Iterator[ServerMetrics]:
    """A real page, of a server that answered one call and one read."""
    metrics = ServerMetrics()
    constitution = ConstitutionSummary("hhh", "1.0.0", "f" * 64)
    metrics.watch_server(lambda: True, lambda: [constitution])
    metrics.open()
    metrics.call_began()
    metrics.call_ended("ComparePair", "OK", 0.5, "trainer")
    metrics.read_done(LabelLogprobs((-0.1, -2.4), prompt_tokens=10, cached_tokens=4))
    metrics.judged(Unjudged(UnjudgedReason.TOO_LONG, ""))
    yield metrics
    asyncio.run(metrics.close())


def test_numbers_since_the_start_are_those_of_the_page() -> None:
    window = compare(page(1000.0), page(1040.0)).since_start
    assert window.seconds == 40
    assert window.calls_per_second == 1.0
    assert window.failed_share == 0.05
    assert window.call_seconds == 0.5
    assert window.reads_per_second == 2.0
    assert window.stored_share == 0.25
    assert window.cached_share == 0.75
    assert window.label_mass == 0.9
    assert window.position_consistency == 0.75
    assert window.verdicts == {"A": 7, "B": 5}
    assert window.abstentions == {"too_long": 1}


def test_current_numbers_are_the_increase_between_two_samples() -> None:
    before = page(1038.0, calls_total=1, call_seconds_sum=10, call_seconds_count=39)
    view = compare(before, page(1040.0))
    assert view.now.seconds == 2
    assert view.now.calls_per_second == (40 - 3) / 2
    assert view.now.call_seconds == 10.0
    assert view.now.label_mass is None, "no read was added: there is nothing to compute it from"
    assert view.engine_queue == 6
    assert view.callers['a "quoted\\ name'] == {"calls": 30, "calls_per_second": 14.5, "failed": 0}
    assert view.callers["bob"]["failed"] == 2


def test_a_server_that_was_started_again_counts_from_zero() -> None:
    before = replace(
        page(1000.0), samples={**page(0).samples, ("start_time_seconds", frozenset()): 1}
    )
    assert compare(before, page(1040.0)).now.calls_per_second == 1.0


def test_one_table_for_scripts(metrics: ServerMetrics) -> None:
    result = CliRunner().invoke(app, ["top", metrics.address, "--once", "--interval", "0.1"])
    assert result.exit_code == 0, result.output
    for shown in ("engine alive", "hhh 1.0.0", "too_long 1", "trainer", "40%", "last "):
        assert shown in result.output


def test_json_for_programs(metrics: ServerMetrics) -> None:
    result = CliRunner().invoke(app, ["top", metrics.address, "--json", "--interval", "0.1"])
    report = json.loads(result.output)
    assert report["server"] == metrics.address
    assert report["engine_alive"] is True
    assert report["since_start"]["abstentions"]["too_long"] == 1
    assert report["now"]["calls_per_second"] == 0
    assert report["callers"]["trainer"]["calls"] == 1


def test_an_unreachable_server_is_reported_with_the_remedy() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(UserError, match=f"{address}.*refused.*--metrics-port"):
        poll(address)
    with pytest.raises(UserError, match="'metrics' is not host:port"):
        poll("metrics")


def test_another_programs_page_is_refused() -> None:
    from prometheus_client import CollectorRegistry, start_http_server

    server, thread = start_http_server(0, "127.0.0.1", CollectorRegistry())
    try:
        with pytest.raises(UserError, match="not the page of a judge server"):
            poll(f"127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_on_a_terminal_the_table_lives_until_ctrl_c(metrics: ServerMetrics) -> None:
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "rlaif", "top", metrics.address, "--interval", "0.1"]
    process = subprocess.Popen(
        command,
        stdout=slave,
        stderr=slave,
        env=os.environ | {"TERM": "xterm"},
        # a test run in the background ignores SIGINT, and so would its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    os.close(slave)
    shown = b""
    deadline = time.monotonic() + 120
    while shown.count(b"since start") < 3 and time.monotonic() < deadline:
        shown += os.read(master, 65536)
    process.send_signal(signal.SIGINT)
    try:
        while chunk := os.read(master, 65536):  # until it lets go of the terminal
            shown += chunk
    except OSError:
        pass
    os.close(master)
    assert process.wait(timeout=120) == 0
    assert shown.count(b"since start") >= 3
    assert b"Traceback" not in shown
