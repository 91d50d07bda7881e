"""Constitutions sent with a request: accepted if allowed, parsed once, rejected with their line."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from constitution.schema import Constitution
from constitution.writer import to_yaml
from judge_service.client.sync import AsyncJudgeClient, JudgeRequestError
from judge_service.server import inline_constitutions
from judge_service.server.inline_constitutions import InlineConstitutions
from judge_service.types import Judgment
from judge_service.v1 import judge_pb2 as pb
from judge_service.v1 import judge_pb2_grpc as pb_grpc
from tests.judge_service.server.test_app import failure
from tests.support.fakes import FakeEngine
from tests.support.service.serving import CHAT, ONE_PRINCIPLE, comparison, one_principle, serving


def shop_constitution() -> Constitution:
    brief = Constitution.load("hhh")
    principle = brief.principles[0].model_copy(update={"compare": "Prefer the shopkeeper."})
    return Constitution(
        name="shop", version="1.0.0", traits={"helpful": {}}, principles=(principle,)
    )


async def test_a_constitution_may_come_with_the_request(
    client: AsyncJudgeClient, engine: FakeEngine
) -> None:
    constitution = shop_constitution()
    judgment = await client.compare("x", "a", "bb", constitution)
    assert isinstance(judgment, Judgment)
    assert judgment.provenance.constitution_sha256 == constitution.digest
    assert "Prefer the shopkeeper." in engine.prompts[0]
    items = [comparison(str(n)) for n in range(20)]
    answers = [answer async for _, answer in client.stream(items, constitution)]
    assert all(isinstance(a, Judgment) for a in answers)
    assert {a.provenance.constitution_name for a in answers if isinstance(a, Judgment)} == {"shop"}


async def test_a_server_that_takes_no_inline_constitution_names_the_setting() -> None:
    async with serving(FakeEngine()) as server, AsyncJudgeClient(server.address) as client:
        assert not (await client.server_info()).inline_constitutions
        with pytest.raises(JudgeRequestError, match="--allow-inline") as refused:
            await client.compare("x", "a", "b", shop_constitution())
        assert list(refused.value.fields) == ["constitution.yaml"]
        with pytest.raises(JudgeRequestError, match="--allow-inline"):
            async for _ in client.stream([comparison("1")], shop_constitution()):
                pass
        async with grpc.aio.insecure_channel(server.address) as channel:
            call = pb_grpc.JudgeServiceStub(channel).ComparePair(
                pb.ComparePairRequest(**CHAT, constitution=pb.ConstitutionRef(yaml=ONE_PRINCIPLE))
            )
            code, _, details = await failure(call)
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert details["ErrorInfo"].reason == "INLINE_NOT_ALLOWED"
    assert "RetryInfo" not in details


async def test_every_problem_of_an_inline_constitution_has_its_line_and_column(judge: Any) -> None:
    text = ONE_PRINCIPLE.replace("critique:", "critic:").replace("1.0.0", "one")
    request = pb.ScoreCandidateRequest(**CHAT, constitution=pb.ConstitutionRef(yaml=text))
    code, message, details = await failure(judge.ScoreCandidate(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details["ErrorInfo"].reason == "BAD_CONSTITUTION"
    problems = [v.description for v in details["BadRequest"].field_violations]
    assert {v.field for v in details["BadRequest"].field_violations} == {"constitution.yaml"}
    assert len(problems) == 2
    assert problems[0].startswith("line 3, column 10: ")
    assert problems[1].startswith("line 9, column 5: ")
    assert "critique" in problems[1]
    assert message == "constitution.yaml: " + "\n".join(problems)


async def test_an_error_fits_the_metadata_however_much_is_wrong(judge: Any) -> None:
    bad = [f"  - {{id: p{n}, trait: unheard-of-{n}, compaer: x, weight: a lot}}" for n in range(99)]
    text = "name: x\nversion: 1.0.0\ntraits: {helpful: {}}\nprinciples:\n" + "\n".join(bad)
    ref = pb.ConstitutionRef(yaml=text)
    code, message, _ = await failure(
        judge.ScoreCandidate(pb.ScoreCandidateRequest(**CHAT, constitution=ref))
    )
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert message.endswith("more problems; ValidateConstitution lists all of them")
    options = pb.WritingOptions(principle_id="x" * 100_000)
    request = pb.CritiqueCandidateRequest(**CHAT, response="a", options=options)
    code, message, _ = await failure(judge.CritiqueCandidate(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert len(message) < 200


async def test_the_other_service_reads_inline_constitutions_alike(
    constitution_service: Any,
) -> None:
    ref = pb.ConstitutionRef(yaml=ONE_PRINCIPLE)
    response = await constitution_service.GetConstitution(
        pb.GetConstitutionRequest(constitution=ref)
    )
    assert response.constitution.name == "brief"
    ref = pb.ConstitutionRef(yaml="name: brief\n")
    request = pb.PreviewPromptRequest(**CHAT, constitution=ref)
    for call in (
        constitution_service.GetConstitution(pb.GetConstitutionRequest(constitution=ref)),
        constitution_service.PreviewPrompt(request),
    ):
        code, _, details = await failure(call)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert details["ErrorInfo"].reason == "BAD_CONSTITUTION"


async def test_an_inline_constitution_is_bounded_like_any_other(client: AsyncJudgeClient) -> None:
    with pytest.raises(JudgeRequestError, match="this server takes up to 3"):
        await client.compare("x", "a", "b", Constitution.load("hhh"))


async def test_a_text_is_parsed_once_and_the_oldest_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parsed: list[str] = []
    from_yaml = Constitution.from_yaml

    def counting(text: str, source: str) -> Constitution:
        parsed.append(text)
        return from_yaml(text, source)

    monkeypatch.setattr(Constitution, "from_yaml", counting)
    monkeypatch.setattr(inline_constitutions, "KEPT", 2)
    inline = InlineConstitutions(allowed=True, max_principles=8)
    one, two, three = (ONE_PRINCIPLE.replace("1.0.0", f"{n}.0.0") for n in (1, 2, 3))
    constitutions = await asyncio.gather(*(inline.find(one) for _ in range(5)))
    assert len({id(constitution) for constitution in constitutions}) == len(parsed) == 1
    await inline.find(two)
    await inline.find(one)
    await inline.find(three)  # forgets two
    await inline.find(one)
    assert len(parsed) == 3
    await inline.find(two)
    assert len(parsed) == 4


def test_inline_yaml_has_the_content_of_the_file(tmp_path: Path) -> None:
    constitution = Constitution.load(one_principle(tmp_path))
    assert to_yaml(constitution) == (
        "name: brief\nversion: 1.0.0\ntraits:\n  helpful: {}\nprinciples:\n"
        "  - id: says-more\n    trait: helpful\n"
        "    compare: Prefer the reply that says more.\n"
        "    critique: What is missing?\n    revise: Add it.\n"
    )
