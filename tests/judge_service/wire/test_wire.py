"""Round trips of every domain type through protobuf, and rejection of invalid fields by name."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from constitution.errors import Diagnostic
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
from judge_service.wire import candidates, constitutions, judgments, requests

MAX_UINT32 = 2**32 - 1
read_options = partial(
    requests.read_options,
    max_rationale_tokens=MAX_UINT32,
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
some = st.builds(Message, role=st.just("user"), content=st.just("some text"))
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
    max_rationale_tokens=st.integers(1, MAX_UINT32),
    rationale_samples=st.integers(1, 16),
    protocol=st.sampled_from(["", "pairwise", "pointwise"]),
    calibrated=st.booleans(),
    use_store=st.booleans(),
    interactive=st.booleans(),
)
writing_options = st.builds(
    WritingOptions,
    principle_id=texts,
    max_tokens=st.integers(1, MAX_UINT32),
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
provenances = st.builds(
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
    reader=texts,
)
any_judgment = st.builds(
    Judgment,
    st.sampled_from(Verdict),
    probs,
    st.dictionaries(texts, probs, max_size=3),
    st.lists(votes, max_size=2).map(tuple),
    st.none() | st.booleans(),
    st.none() | probs,
    provenances,
    usages,
    numbers,
    raw_prob_a=st.none() | probs,
    spread=st.floats(0.0, 0.5),
)
failures = st.builds(Unjudged, st.sampled_from(UnjudgedReason), texts, usages)
results = any_judgment | failures
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
    provenances,
    usages,
    numbers,
)
writings = st.builds(Writing, texts, st.booleans(), texts, provenances, usages, numbers)
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
    st.lists(st.tuples(counts, counts, results), max_size=2).map(tuple),
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
    """The message after serialization, as the receiver gets it."""
    return type(message).FromString(message.SerializeToString())


@given(results)
@settings(deadline=None)
def test_a_judgment_survives_the_wire(result: Judgment | Unjudged) -> None:
    assert judgments.judgment_from_proto(sent(judgments.judgment_to_proto(result))) == result


@given(scores | failures)
@settings(deadline=None, max_examples=50)
def test_a_score_survives_the_wire(result: Score | Unjudged) -> None:
    assert candidates.score_from_proto(sent(candidates.score_to_proto(result))) == result


@given(writings | failures)
@settings(deadline=None, max_examples=50)
def test_a_critique_or_revision_survives_the_wire(result: Writing | Unjudged) -> None:
    assert candidates.writing_from_proto(sent(candidates.writing_to_proto(result))) == result


@given(previews)
@settings(deadline=None, max_examples=30)
def test_a_preview_survives_the_wire(preview: PromptPreview) -> None:
    assert candidates.preview_from_proto(sent(candidates.preview_to_proto(preview))) == preview


@given(writing_options)
@settings(deadline=None, max_examples=50)
def test_writing_options_survive_the_wire(chosen: WritingOptions) -> None:
    message = sent(requests.writing_options_to_proto(chosen))
    assert requests.read_writing_options(message, max_tokens=MAX_UINT32) == chosen


@given(rankings)
@settings(deadline=None, max_examples=30)
def test_a_ranking_survives_the_wire(ranking: Ranking) -> None:
    message = judgments.ranking_to_proto(ranking)
    message.pairs.extend(judgments.ranked_pair_to_proto(*pair) for pair in ranking.pairs)
    assert judgments.ranking_from_proto(sent(message)) == ranking


@given(comparisons, options)
@settings(deadline=None)
def test_a_comparison_and_its_options_survive_the_wire(
    comparison: Comparison, chosen: JudgeOptions
) -> None:
    assume(chosen.protocol != "pointwise" or len(chosen.orders) == 2)  # it has no order to choose
    request = sent(requests.compare_request(comparison, pb.ConstitutionRef(), chosen))
    assert requests.read_comparison(request) == comparison
    assert read_options(request.options) == chosen


@given(infos)
@settings(deadline=None, max_examples=30)
def test_server_info_survives_the_wire(info: ServerInfo) -> None:
    assert judgments.server_info_from_proto(sent(judgments.server_info_to_proto(info))) == info


@given(st.builds(Diagnostic, texts, counts, counts, texts, texts))
def test_a_diagnostic_survives_the_wire(problem: Diagnostic) -> None:
    message = sent(constitutions.diagnostic_to_proto(problem))
    assert constitutions.diagnostic_from_proto(message) == problem


@pytest.mark.parametrize("name", Constitution.library_names())
def test_a_constitution_survives_the_wire_with_its_digest(name: str) -> None:
    constitution = Constitution.load(name)
    arrived = constitutions.constitution_from_proto(
        sent(constitutions.constitution_to_proto(constitution))
    )
    assert arrived == constitution
    assert arrived.digest == constitution.digest


def test_absent_options_are_the_recommended_ones() -> None:
    assert read_options(pb.JudgeOptions()) == JudgeOptions()


def test_absent_writing_options_are_the_recommended_ones_within_the_servers_limit() -> None:
    read = requests.read_writing_options
    assert read(pb.WritingOptions(), max_tokens=1024) == WritingOptions()
    assert read(pb.WritingOptions(), max_tokens=64).max_tokens == 64


def test_an_explicit_zero_is_not_the_default() -> None:
    greedy = requests.read_writing_options(pb.WritingOptions(temperature=0.0), max_tokens=9)
    assert greedy.temperature == 0.0
    assert read_options(pb.JudgeOptions(max_straddle=0.0)).max_straddle == 0.0


def test_a_cache_hit_is_a_judgment_of_stored_reads_only() -> None:
    assert judgments.is_cache_hit(Usage(stored_reads=4))
    assert not judgments.is_cache_hit(Usage(reads=1, stored_reads=3))
    assert not judgments.is_cache_hit(Usage())


def test_an_explicit_zero_label_mass_is_not_the_default() -> None:
    assert read_options(pb.JudgeOptions(min_label_mass=0.0)).min_label_mass == 0.0


def test_an_abstention_carries_no_probability() -> None:
    unjudged = Unjudged(UnjudgedReason.EMPTY_RESPONSE, "response A is empty")
    assert not judgments.judgment_to_proto(unjudged).HasField("prob_a")


def test_an_inline_constitution_is_sent_as_yaml() -> None:
    constitution = Constitution.load("hhh")
    ref = requests.constitution_ref(constitution)
    assert (ref.name, ref.sha256) == ("", "")
    assert Constitution.from_yaml(ref.yaml).digest == constitution.digest


def test_sixty_four_hexadecimal_digits_are_a_digest_and_anything_else_a_name() -> None:
    assert requests.constitution_ref("ab" * 32) == pb.ConstitutionRef(sha256="ab" * 32)
    assert requests.constitution_ref("hhh") == pb.ConstitutionRef(name="hhh")


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
def test_an_invalid_option_is_rejected_by_name(options: pb.JudgeOptions, field: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        read_options(options)
    assert list(raised.value.fields) == [field]


def test_a_message_without_role_or_text_is_rejected_by_name() -> None:
    for messages, field in (
        ([], "conversation"),
        ([pb.Message(content="hi")], "conversation[0].role"),
        ([pb.Message(role=pb.ROLE_USER, content=" ")], "conversation[0].content"),
    ):
        with pytest.raises(InvalidRequest) as raised:
            requests.read_conversation(messages)
        assert list(raised.value.fields) == [field]


@pytest.mark.parametrize("request_id", ["x" * 129, "two\nlines"])
def test_a_request_id_is_short_and_printable(request_id: str) -> None:
    request = pb.ComparePairRequest(
        conversation=[pb.Message(role=pb.ROLE_USER, content="hi")], request_id=request_id
    )
    with pytest.raises(InvalidRequest, match="request_id"):
        requests.read_comparison(request)
