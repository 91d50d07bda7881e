"""Valid and refused requests over a real socket. The engine is a fake."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from constitution.schema import Constitution
from judge_service.client.sync import AsyncJudgeClient, JudgeClient
from judge_service.judge.calibration import (
    Calibration,
    CalibrationError,
    Temperature,
    model_sha256,
    write_calibration,
)
from judge_service.judge.prompt_runner import PromptRunner
from judge_service.judge.prompts import TEMPLATE_VERSION
from judge_service.judge.reader import FittedReader
from judge_service.judge.template import TemplateError
from judge_service.server.app import JudgeServer
from judge_service.server_info import FittedCalibration
from judge_service.types import (
    JudgeOptions,
    Judgment,
    Order,
    PromptPreview,
    Score,
    Unjudged,
    UnjudgedReason,
    Verdict,
    Writing,
    WritingOptions,
)
from judge_service.v1 import judge_pb2 as pb
from tests.judge_service.server.test_app import failure
from tests.support.fakes import FakeEngine
from tests.support.service.serving import CHAT, ONE_PRINCIPLE, one_principle, serving, settings

FRUIT = ("Name a fruit", "An apple, for instance.")


async def test_a_response_is_scored_by_itself(client: AsyncJudgeClient) -> None:
    long = await client.score(*FRUIT)
    short = await client.score("Name a fruit", "No.")
    assert isinstance(long, Score)
    assert isinstance(short, Score)
    assert long.score == -short.score > 0  # the fake's ratings mirror each other
    (one,) = long.principle_scores
    assert (one.principle_id, len(one.rating_probs)) == ("says-more", 9)
    assert long.trait_scores == {"helpful": long.score}
    assert long.provenance.constitution_name == "brief"


async def test_a_critique_and_a_revision_are_written(
    client: AsyncJudgeClient, engine: FakeEngine
) -> None:
    how = WritingOptions(principle_id="says-more", max_tokens=4, temperature=0.5, seed=3)
    critique = await client.critique(*FRUIT, options=how)
    assert isinstance(critique, Writing)
    assert (critique.text, critique.principle_id) == ("an answer", "says-more")
    revision = await client.revise(*FRUIT, critique.text, "brief", how)
    assert isinstance(revision, Writing)
    assert [(w.max_tokens, w.temperature, w.seed) for w in engine.writings] == [(4, 0.5, 3)] * 2
    assert "What is missing?" in engine.writings[0].prompt
    assert "Add it." in engine.writings[1].prompt
    assert "an answer" in engine.writings[1].prompt


async def test_a_preview_shows_the_prompts_of_a_comparison_and_reads_nothing(
    client: AsyncJudgeClient, engine: FakeEngine
) -> None:
    pair = ("Name a fruit", "An apple.", "A stone.")
    previews = await client.preview(*pair)
    assert not engine.prompts
    assert [p.order for p in previews] == [Order.AB, Order.BA]
    assert isinstance(previews[0], PromptPreview)
    assert "<|im_start|>" in previews[0].text
    judgment = await client.compare(*pair)
    assert isinstance(judgment, Judgment)
    reads = judgment.votes[0].reads
    assert {p.prompt_sha256: p.prompt_tokens for p in previews} == {
        r.prompt_sha256: r.prompt_tokens for r in reads
    }


async def test_rationales_come_with_the_reads(client: AsyncJudgeClient) -> None:
    judgment = await client.compare(
        "Name a fruit", "An apple.", "A stone.", options=JudgeOptions(max_rationale_tokens=8)
    )
    assert isinstance(judgment, Judgment)
    assert {read.rationale for vote in judgment.votes for read in vote.reads} == {"an answer"}


async def test_an_empty_response_is_unjudged_in_every_request(client: AsyncJudgeClient) -> None:
    for outcome in (
        await client.score("Name a fruit", " "),
        await client.critique("Name a fruit", ""),
        await client.revise("Name a fruit", "", "too short"),
    ):
        assert isinstance(outcome, Unjudged)
        assert outcome.reason is UnjudgedReason.EMPTY_RESPONSE


async def test_the_sync_client_sends_the_same_requests(client: AsyncJudgeClient) -> None:
    def work() -> tuple[Any, ...]:
        with JudgeClient(client.address) as sync:
            return (
                sync.score(*FRUIT),
                sync.critique(*FRUIT),
                sync.revise(*FRUIT, "too short"),
                sync.preview(*FRUIT, "b"),
            )

    score, critique, revision, previews = await asyncio.to_thread(work)
    assert score.principle_scores == (await client.score(*FRUIT)).principle_scores
    assert critique.text == revision.text == "an answer"
    assert previews == await client.preview(*FRUIT, "b")


async def test_an_undecided_judgment_abstains_with_its_reason(
    client: AsyncJudgeClient, engine: FakeEngine
) -> None:
    engine.answer = lambda _: (-0.1, -2.4)  # always the first: a judge with only position bias
    outcome = await client.compare("x", "a", "b", options=JudgeOptions(max_straddle=0.1))
    assert isinstance(outcome, Unjudged)
    assert outcome.reason is UnjudgedReason.UNDECIDED


async def test_server_info_lists_what_the_server_offers(client: AsyncJudgeClient) -> None:
    info = await client.server_info()
    assert info.protocols[0] == "pairwise"
    assert info.inline_constitutions
    assert (info.limits.max_rationale_tokens, info.limits.max_write_tokens) == (8, 300)
    assert {"JudgeService.ScoreCandidate", "ConstitutionService.PreviewPrompt"} <= set(
        info.capabilities
    )


# ---------------------------------------------------------------- refusals, by field

INVALID_CALLS = [
    ("CritiqueCandidate", {"options": {"max_tokens": 301}}, "options.max_tokens", "up to 300"),
    ("CritiqueCandidate", {"options": {"temperature": 2.5}}, "options.temperature", "[0, 2]"),
    (
        "CritiqueCandidate",
        {"options": {"principle_id": "says-mor"}},
        "options.principle_id",
        "did you mean 'says-more'?",
    ),
    ("CritiqueCandidate", {"conversation": []}, "conversation", "empty"),
    ("CritiqueCandidate", {"request_id": "x" * 200}, "request_id", "printable"),
    ("CritiqueCandidate", {"response": "word " * 5000}, "response", "tokens"),
    ("ReviseCandidate", {"critique": " "}, "critique", "empty"),
    ("ReviseCandidate", {"critique": "word " * 5000}, "critique", "tokens"),
    (
        "ReviseCandidate",
        {"options": {"principle_id": "no"}},
        "options.principle_id",
        "no principle 'no'",
    ),
    (
        "ScoreCandidate",
        {"options": {"max_rationale_tokens": 9}},
        "options.max_rationale_tokens",
        "up to 8",
    ),
    ("ScoreCandidate", {"response": "word " * 5000}, "response", "tokens"),
    (
        "ComparePair",
        {"options": {"protocol": "pairwize"}},
        "options.protocol",
        "did you mean 'pairwise'?; this server has: pairwise",
    ),
    (
        "ComparePair",
        {"options": {"protocol": "pointwise", "orders": [pb.ORDER_BA]}},
        "options.orders",
        "send no orders",
    ),
    (
        "ComparePair",
        {"options": {"max_rationale_tokens": 1, "rationale_samples": 17}},
        "options.rationale_samples",
        "up to 16",
    ),
    (
        "ComparePair",
        {"constitution": {"yaml": ONE_PRINCIPLE, "name": "brief"}},
        "constitution.yaml",
        "one or the other",
    ),
]


@pytest.mark.parametrize(
    ("rpc", "fields", "field", "problem"),
    INVALID_CALLS,
    ids=[f"{c[0]}-{c[2]}" for c in INVALID_CALLS],
)
async def test_an_invalid_call_names_its_field(
    judge: Any, rpc: str, fields: dict[str, Any], field: str, problem: str
) -> None:
    request = getattr(pb, f"{rpc}Request")
    given: dict[str, Any] = {**CHAT}
    if rpc == "ReviseCandidate":
        given["critique"] = "too short"
    given |= {"response_a": "a", "response_b": "b"} if rpc == "ComparePair" else {"response": "a"}
    code, message, details = await failure(getattr(judge, rpc)(request(**{**given, **fields})))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert message.startswith(f"{field}: ")
    assert problem in message
    assert [v.field for v in details["BadRequest"].field_violations] == [field]
    assert details["ErrorInfo"].reason in ("INVALID_REQUEST", "TOO_LONG")


@pytest.mark.parametrize("rpc", ["RankCandidates", "ScoreCandidate"])
async def test_a_model_that_cannot_fit_the_prompt_is_reported_as_such(
    judge: Any, monkeypatch: pytest.MonkeyPatch, rpc: str
) -> None:
    def unsuited(*_: object) -> None:
        raise TemplateError("two labels are token 3 in this model's tokenizer")

    monkeypatch.setattr(PromptRunner, "template", unsuited)
    given = {"response": "a"} if rpc == "ScoreCandidate" else {"candidates": ["a", "bb"]}
    request = getattr(pb, f"{rpc}Request")(**CHAT, **given)
    code, message, details = await failure(getattr(judge, rpc)(request))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert message.startswith("this judge model does not support the call: two labels are token 3")
    assert details["ErrorInfo"].reason == "MODEL_UNSUITED"
    assert "RetryInfo" not in details


async def test_validate_only_checks_and_writes_nothing(
    judge: Any, constitution_service: Any, engine: FakeEngine
) -> None:
    given = {**CHAT, "response": "a", "validate_only": True}
    assert not (await judge.ScoreCandidate(pb.ScoreCandidateRequest(**given))).HasField("score")
    response = await judge.CritiqueCandidate(pb.CritiqueCandidateRequest(**given))
    assert not response.HasField("critique")
    response = await judge.ReviseCandidate(pb.ReviseCandidateRequest(**given, critique="short"))
    assert not response.HasField("revision")
    response = await constitution_service.PreviewPrompt(
        pb.PreviewPromptRequest(**CHAT, validate_only=True)
    )
    assert not response.prompts
    assert not engine.prompts + engine.writings
    wrong = pb.WritingOptions(principle_id="no")
    await failure(judge.CritiqueCandidate(pb.CritiqueCandidateRequest(**given, options=wrong)))


# ---------------------------------------------------------------- calibrations


async def test_a_calibration_file_is_applied_unless_the_caller_wants_raw_numbers(
    tmp_path: Path,
) -> None:
    constitution = one_principle(tmp_path)
    file = tmp_path / "brief.calibration.json"
    calibration = Calibration(
        constitution="brief",
        constitution_sha256=Constitution.load(constitution).digest,
        model="fake",
        model_sha256=model_sha256(FakeEngine().identity),
        template_version=TEMPLATE_VERSION,
        protocol="pairwise",
        pairs=10,
        curve=Temperature(2.0),
    )
    write_calibration(file, calibration)
    async with (
        serving(FakeEngine(), constitutions=[constitution], calibrations=[str(file)]) as server,
        AsyncJudgeClient(server.address) as client,
    ):
        info = await client.server_info()
        calibrated = await client.compare("x", "a", "a longer one")
        raw = await client.compare("x", "a", "a longer one", options=JudgeOptions(calibrated=False))
    assert isinstance(calibrated, Judgment)
    assert isinstance(raw, Judgment)
    fitted = FittedCalibration(calibration.constitution_sha256, "pairwise", calibration.sha256)
    assert info.calibrations == (fitted,)
    assert calibrated.provenance.calibration == calibration.sha256
    assert raw.provenance.calibration == ""
    assert raw.prob_a == raw.raw_prob_a == calibrated.raw_prob_a
    assert calibrated.prob_a == pytest.approx(calibration.curve.apply(raw.prob_a))
    assert raw.prob_a < calibrated.prob_a < 0.5

    # A reader of the same file is applied over the wire, too, and named apart.
    write_calibration(file, replace(calibration, curve=FittedReader((("length", -5.0),), 1.0)))
    async with (
        serving(FakeEngine(), constitutions=[constitution], calibrations=[str(file)]) as server,
        AsyncJudgeClient(server.address) as client,
    ):
        read = await client.compare("x", "a", "a longer one")
    assert isinstance(read, Judgment)
    assert (read.provenance.reader != "", read.provenance.calibration) == (True, "")
    assert (read.raw_prob_a, read.verdict) == (raw.prob_a, Verdict.A)


def test_a_calibration_file_that_is_missing_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"no\.json"):
        JudgeServer(settings(calibrations=[str(tmp_path / "no.json")]), FakeEngine())
