"""The gate: only a revision that the judge prefers to its original is a lesson.

    p = P(y_k is better than y_0 | x, the principles), the mean of both orders
    lesson if p >= gate; then also a soft preference y_k > y_0 with prob_chosen = p

A judge that writes revisions finds what to change in everything, good responses included: it is
asked again, by the constitution as a whole, whether the change was one for the better.
"""

from __future__ import annotations

from judge_service.types import Comparison, Judgment, Unjudged
from rlaif.data.records import Sample

DEFAULT_GATE = 0.55
"""Just above what a judge that sees no difference says."""

NOT_BETTER = "not better"


def sample_id(sample: Sample) -> str:
    """The id of a sample's revision: of its prompt, and which of the responses to it."""
    return f"{sample.prompt.id}#{sample.index}"


def question(sample: Sample, revision: str) -> Comparison:
    """The pair to judge: A is the revision. Read in both orders, the position means nothing."""
    return Comparison(
        id=sample_id(sample),
        conversation=sample.prompt.messages,
        response_a=revision,
        response_b=sample.response,
        complete_b=sample.complete,
        end_token_b=sample.end_token,
    )


def refusal(answer: Judgment | Unjudged, gate: float) -> str:
    """Why a compared revision is no lesson: under the gate, or not judged; "" for one that is."""
    if isinstance(answer, Unjudged):
        return f"gate: {answer.reason.value}"
    return f"gate: {NOT_BETTER}" if answer.prob_a < gate else ""
