"""Every domain type survives the wire; what callers may not send is refused by field."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from constitution.errors import Diagnostic
from constitution.loader import load_text
from constitution.schema import Constitution, Message
from judge_service.errors import InvalidRequest
from judge_service.server_info import ConstitutionSummary, ServerInfo, ServerLimits, ServerState
from judge_service.types import (
    Comparison,
    JudgeOptions,
    Judgment,
    ModelIdentity,
    Order,
    PrincipleScore,
    PrincipleVote,
    PromptPreview,
    Provenance,
    RankedCandidate,
    Ranking,
    Read,
    Score,
    Unjudged,
    UnjudgedReason,
    Usage,
    Verdict,
    Writing,
    WritingOptions,
)
from judge_service.v1 import judge_pb2 as pb
from judge_service.wire import candidates as wire_writing
from judge_service.wire import constitutions as wire_constitution
from judge_service.wire import judgments as wire
from judge_service.wire import requests as wire_requests

MOST = 2**32 - 1
read_options = partial(
    wire_requests.read_options,
    max_rationale_tokens=MOST,
    protocols=("pairwise", "pointwise"),
)

texts = st.text(st.characters(codec="utf-8"), max_size=30)
probs = st.floats(0.0, 1.0)
counts = st.integers(0, 2**32 - 1)
numbers = st.floats(allow_nan=False)
orders = st.permutations(list(Order)).flatmap(
    lambda both: st.sampled_from([tuple(both), tuple(both[:1])])
)
messages = st.builds(Message, role=st.sampled_from(["system", "user", "assistant"]), content=texts)
some = st.builds(Message, role=st.just("user"), content=st.just("said something"))
conversations = st.tuples(messages, some).map(tuple)
comparisons = st.builds(
    Comparison, id=st.just(""), conversation=conversations, response_a=texts, response_b=texts
)
options = st.builds(
    JudgeOptions,
    orders=orders,
    sample_principles=st.none() | st.integers(1, 2**32 - 1),
    seed=st.integers(-(2**63), 2**63 - 1),
    tie_margin=st.floats(0.0, 0.5),
    min_label_mass=probs,
    max_straddle=st.none() | st.floats(0.0, 0.5),
    max_rationale_tokens=st.integers(1, MOST),
    rationale_samples=st.integers(1, 16),
    protocol=st.sampled_from(["", "pairwise", "pointwise"]),
    calibrated=st.booleans(),
    use_store=st.booleans(),
    interactive=st.booleans(),
)
writing_options = st.builds(
    WritingOptions,
    principle_id=texts,
    max_tokens=st.integers(1, MOST),
    temperature=st.floats(0.0, 2.0),
    seed=st.integers(-(2**63), 2**63 - 1),
    use_store=st.booleans(),
    interactive=st.booleans(),
)
usages = st.builds(Usage, counts, counts, counts, counts, counts)
reads = st.builds(
    Read,
    st.sampled_from(Order),
    numbers,
    numbers,
    probs,
    probs,
    counts,
    counts,
    texts,
    stored=st.booleans(),
    rationale=texts,
)
votes = st.builds(
    PrincipleVote,
    texts,
    texts,
    numbers,
    probs,
    st.none() | probs,
    st.lists(reads, max_size=2).map(tuple),
    counts,
)
models = st.builds(ModelIdentity, texts, texts, texts, texts, texts)
origins = st.builds(
    Provenance,
    texts,
    texts,
    texts,
    models,
    texts,
    st.lists(texts, max_size=3).map(tuple),
    orders,
    st.integers(-(2**63), 2**63 - 1),
    protocol=texts,
    calibration=texts,
)
judgments = st.builds(
    Judgment,
    st.sampled_from(Verdict),
    probs,
    st.dictionaries(texts, probs, max_size=3),
    st.lists(votes, max_size=2).map(tuple),
    st.none() | st.booleans(),
    st.none() | probs,
    origins,
    usages,
    numbers,
    raw_prob_a=st.none() | probs,
    spread=st.floats(0.0, 0.5),
)
failures = st.builds(Unjudged, st.sampled_from(UnjudgedReason), texts, usages)
findings = judgments | failures
principle_scores = st.builds(
    PrincipleScore,
    texts,
    texts,
    numbers,
    st.floats(-1.0, 1.0),
    st.lists(probs, max_size=9).map(tuple),
    probs,
    texts,
    st.booleans(),
)
scores = st.builds(
    Score,
    st.floats(-1.0, 1.0),
    st.dictionaries(texts, st.floats(-1.0, 1.0), max_size=3),
    st.lists(principle_scores, max_size=2).map(tuple),
    origins,
    usages,
    numbers,
)
writings = st.builds(Writing, texts, st.booleans(), texts, origins, usages, numbers)
previews = st.builds(
    PromptPreview,
    texts,
    st.sampled_from(Order),
    texts,
    counts,
    st.lists(texts, max_size=9).map(tuple),
    texts,
)
rankings = st.builds(
    Ranking,
    st.lists(st.builds(RankedCandidate, counts, counts, numbers, numbers), max_size=3).map(tuple),
    st.lists(st.tuples(counts, counts, findings), max_size=2).map(tuple),
    usages,
    numbers,
)
summaries = st.builds(ConstitutionSummary, texts, texts, texts)
infos = st.builds(
    ServerInfo,
    st.sampled_from(ServerState),
    texts,
    st.none() | models,
    texts,
    st.builds(ServerLimits, counts, counts, counts, counts, counts, counts, counts),
    st.lists(texts, max_size=3).map(tuple),
    st.lists(summaries, max_size=3).map(tuple),
    st.lists(texts, max_size=3).map(tuple),
    st.booleans(),
)


def sent(message: Any) -> Any:
    """What arrives at the other side."""
    return type(message).FromString(message.SerializeToString())


@given(findings)
@settings(deadline=None)
def test_a_judgment_survives_the_wire(found: Judgment | Unjudged) -> None:
    assert wire.judgment_from_proto(sent(wire.judgment_to_proto(found))) == found


@given(scores | failures)
@settings(deadline=None, max_examples=50)
def test_a_score_survives_the_wire(found: Score | Unjudged) -> None:
    assert wire_writing.score_from_proto(sent(wire_writing.score_to_proto(found))) == found


@given(writings | failures)
@settings(deadline=None, max_examples=50)
def test_what_the_judge_wrote_survives_the_wire(found: Writing | Unjudged) -> None:
    assert wire_writing.writing_from_proto(sent(wire_writing.writing_to_proto(found))) == found


@given(previews)
@settings(deadline=None, max_examples=30)
def test_a_preview_survives_the_wire(preview: PromptPreview) -> None:
    assert wire_writing.preview_from_proto(sent(wire_writing.preview_to_proto(preview))) == preview


@given(writing_options)
@settings(deadline=None, max_examples=50)
def test_writing_options_survive_the_wire(how: WritingOptions) -> None:
    message = sent(wire_requests.writing_options_to_proto(how))
    assert wire_requests.read_writing_options(message, max_tokens=MOST) == how


@given(rankings)
@settings(deadline=None, max_examples=30)
def test_a_ranking_survives_the_wire(ranking: Ranking) -> None:
    assert wire.ranking_from_proto(sent(wire.ranking_to_proto(ranking))) == ranking


@given(comparisons, options)
@settings(deadline=None)
def test_a_comparison_and_its_options_survive_the_wire(
    comparison: Comparison, how: JudgeOptions
) -> None:
    assume(how.protocol != "pointwise" or len(how.orders) == 2)  # it has no order to choose
    request = sent(wire_requests.compare_request(comparison, pb.ConstitutionRef(), how))
    assert wire_requests.read_comparison(request) == comparison
    assert read_options(request.options) == how


@given(infos)
@settings(deadline=None, max_examples=30)
def test_server_info_survives_the_wire(info: ServerInfo) -> None:
    assert wire.server_info_from_proto(sent(wire.server_info_to_proto(info))) == info


@given(st.builds(Diagnostic, texts, counts, counts, texts, texts))
def test_a_diagnostic_survives_the_wire(problem: Diagnostic) -> None:
    message = sent(wire_constitution.diagnostic_to_proto(problem))
    assert wire_constitution.diagnostic_from_proto(message) == problem


@pytest.mark.parametrize("name", Constitution.library_names())
def test_a_constitution_survives_the_wire_with_its_digest(name: str) -> None:
    law = Constitution.load(name)
    arrived = wire_constitution.constitution_from_proto(
        sent(wire_constitution.constitution_to_proto(law))
    )
    assert arrived == law
    assert arrived.digest == law.digest


def test_absent_options_are_the_recommended_ones() -> None:
    assert read_options(pb.JudgeOptions()) == JudgeOptions()


def test_absent_writing_options_are_the_recommended_ones_within_the_servers_bound() -> None:
    read = wire_requests.read_writing_options
    assert read(pb.WritingOptions(), max_tokens=1024) == WritingOptions()
    assert read(pb.WritingOptions(), max_tokens=64).max_tokens == 64


def test_an_explicit_zero_is_not_the_default() -> None:
    greedy = wire_requests.read_writing_options(pb.WritingOptions(temperature=0.0), max_tokens=9)
    assert greedy.temperature == 0.0
    assert read_options(pb.JudgeOptions(max_straddle=0.0)).max_straddle == 0.0


def test_a_cache_hit_is_a_judgment_of_stored_reads_alone() -> None:
    assert wire.is_cache_hit(Usage(stored_reads=4))
    assert not wire.is_cache_hit(Usage(reads=1, stored_reads=3))
    assert not wire.is_cache_hit(Usage())


def test_an_explicit_zero_label_mass_is_not_the_default() -> None:
    assert read_options(pb.JudgeOptions(min_label_mass=0.0)).min_label_mass == 0.0


def test_an_abstention_carries_no_probability() -> None:
    found = Unjudged(UnjudgedReason.EMPTY_RESPONSE, "response A is empty")
    assert not wire.judgment_to_proto(found).HasField("prob_a")


def test_a_constitution_of_ones_own_travels_as_yaml() -> None:
    law = Constitution.load("hhh")
    ref = wire_requests.constitution_ref(law)
    assert (ref.name, ref.sha256) == ("", "")
    assert load_text(ref.yaml).digest == law.digest


def test_sixty_four_hexadecimal_digits_are_a_digest_and_anything_else_a_name() -> None:
    assert wire_requests.constitution_ref("ab" * 32) == pb.ConstitutionRef(sha256="ab" * 32)
    assert wire_requests.constitution_ref("hhh") == pb.ConstitutionRef(name="hhh")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (pb.JudgeOptions(orders=[pb.ORDER_UNSPECIFIED]), "options.orders"),
        (pb.JudgeOptions(orders=[pb.ORDER_AB, pb.ORDER_AB]), "options.orders"),
        (pb.JudgeOptions(tie_margin=0.51), "options.tie_margin"),
        (pb.JudgeOptions(tie_margin=float("nan")), "options.tie_margin"),
        (pb.JudgeOptions(min_label_mass=-0.1), "options.min_label_mass"),
        (pb.JudgeOptions(min_label_mass=1.1), "options.min_label_mass"),
        (pb.JudgeOptions(sample_size=1), "options.sample_size"),
        (pb.JudgeOptions(max_straddle=0.51), "options.max_straddle"),
        (pb.JudgeOptions(rationale_samples=2), "options.rationale_samples"),
        (
            pb.JudgeOptions(rationale_samples=17, max_rationale_tokens=1),
            "options.rationale_samples",
        ),
        (pb.JudgeOptions(protocol="pairwize"), "options.protocol"),
        (pb.JudgeOptions(principles=pb.PRINCIPLE_SELECTION_SAMPLE), "options.sample_size"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(options: pb.JudgeOptions, field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_options(options)
    assert list(refused.value.fields) == [field]


def test_a_turn_without_role_or_words_is_refused_by_name() -> None:
    for messages, field in (
        ([], "conversation"),
        ([pb.Message(content="hi")], "conversation[0].role"),
        ([pb.Message(role=pb.ROLE_USER, content=" ")], "conversation[0].content"),
    ):
        with pytest.raises(InvalidRequest) as refused:
            wire_requests.read_conversation(messages)
        assert list(refused.value.fields) == [field]


@pytest.mark.parametrize("request_id", ["x" * 129, "two\nlines"])
def test_a_request_id_is_short_and_printable(request_id: str) -> None:
    request = pb.ComparePairRequest(
        conversation=[pb.Message(role=pb.ROLE_USER, content="hi")], request_id=request_id
    )
    with pytest.raises(InvalidRequest, match="request_id"):
        wire_requests.read_comparison(request)
