"""The minimum duration of a call, with numbers worked by hand."""

from __future__ import annotations

from judge_service.server.deadlines import LatencyWindow, kind_of
from judge_service.v1 import judge_pb2 as pb


def test_the_quickest_of_the_last_ten_seconds_counts_once_there_are_five() -> None:
    now = 100.0
    pace = LatencyWindow(clock=lambda: now)
    for seconds in (3.0, 2.0, 4.0, 5.0):
        pace.ended("compare", seconds, 1)
    assert pace.quickest("compare", 1) == 0.0, "too few samples"
    now = 104.0
    pace.ended("compare", 6.0, 1)
    assert pace.quickest("compare", 1) == 2.0
    assert pace.quickest("rank", 1) == 0.0, "each RPC by itself"
    now = 110.5
    assert pace.quickest("compare", 1) == 0.0, "one of them is young enough"
    for _ in range(4):
        pace.ended("compare", 7.0, 1)
    assert pace.quickest("compare", 1) == 6.0


def test_latencies_under_more_load_than_now_are_ignored() -> None:
    pace = LatencyWindow(clock=lambda: 0.0)
    for _ in range(5):
        pace.ended("compare", 60.0, 8)
    assert pace.quickest("compare", 7) == 0.0
    assert pace.quickest("compare", 8) == 60.0


def test_when_all_are_refused_the_next_is_let_through_after_ten_seconds() -> None:
    now = 0.0
    pace = LatencyWindow(clock=lambda: now)
    for _ in range(5):
        pace.ended("compare", 60.0, 1)
    assert pace.quickest("compare", 1) == 60.0
    now = 10.1
    assert pace.quickest("compare", 1) == 0.0


def test_calls_are_alike_by_caller_options_constitution_and_size_within_a_factor_of_two() -> None:
    def kind(caller: str = "mine", text: str = "x" * 600, **options: int) -> object:
        request = pb.ComparePairRequest(response_a=text, options=pb.JudgeOptions(**options))
        return kind_of("/s/ComparePair", caller, request)

    assert kind() == kind(text="y" * 700)
    assert kind() != kind(caller="theirs"), "one caller's calls refuse no other's"
    assert kind() != kind(max_rationale_tokens=100), "nor slow ones quick ones"
    assert kind() != kind(text="x" * 6000), "nor long ones short ones"


def test_only_the_latest_kinds_of_calls_are_remembered() -> None:
    pace = LatencyWindow(clock=lambda: 0.0)
    for _ in range(5):
        pace.ended("first", 60.0, 1)
    assert pace.quickest("first", 1) == 60.0
    for kind in range(1024):
        pace.ended(kind, 1.0, 1)
    assert pace.quickest("first", 1) == 0.0
