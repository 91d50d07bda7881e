"""Domain types: comparisons, options, reads, votes, judgments and their provenance.

A failed judgment is never a number: it is `Unjudged(reason)`. All types are frozen dataclasses or
enumerations, independent of engines, protobuf and files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from constitution.schema import Message

Conversation = tuple[Message, ...]


class Order(StrEnum):
    """Which response comes first in the judge's prompt."""

    AB = "AB"
    BA = "BA"


class Verdict(StrEnum):
    """Which response is better."""

    A = "A"
    B = "B"
    TIE = "TIE"


class UnjudgedReason(StrEnum):
    """Why there is no label. The reasons are part of the API: add, never rename."""

    TOO_LONG = "too_long"  # the prompt does not fit the judge's context
    EMPTY_RESPONSE = "empty_response"  # only white space to judge
    LOW_LABEL_MASS = "low_label_mass"  # the judge would answer something other than a label
    NO_PRINCIPLE_APPLIES = "no_principle_applies"  # every principle's scope excludes the prompt
    ENGINE_FAILED = "engine_failed"  # the engine raised or died
    CANCELLED = "cancelled"  # the caller disconnected or the deadline passed
    UNDECIDED = "undecided"  # the reads straddle 0.5 by more than max_straddle
    REFUSED = "refused"  # the request is invalid; a retry gives the same result


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two responses to one conversation, before labeling.

    id: the caller's own; a stream returns it with the judgment. How the responses ended is for the
    caller's labels: it is not part of a request, and no judge reads it.
    """

    id: str
    conversation: Conversation
    response_a: str
    response_b: str
    complete_a: bool = True  # ended by itself, not cut off by a length limit
    complete_b: bool = True
    end_token_a: str = ""  # that ended it, such as "<|im_end|>"; "" if it is not known
    end_token_b: str = ""


@dataclass(frozen=True, slots=True)
class JudgeOptions:
    """How to make a judgment; the defaults are recommended."""

    orders: tuple[Order, ...] = (Order.AB, Order.BA)
    sample_principles: int | None = None  # None: all that apply; n: a seeded sample of n of them
    seed: int = 0
    tie_margin: float = 0.0  # |prob_a - 0.5| below this is a TIE
    max_straddle: float | None = None  # abstain when `straddle` is above this; None: never
    min_label_mass: float = 0.1  # a read with less total label probability is void
    max_rationale_tokens: int = 0  # 0: read directly; else the judge writes a rationale first
    rationale_samples: int = 1  # rationales per read: 1 is greedy, more are sampled and averaged
    protocol: str = ""  # "pairwise" or "pointwise" (`label_probs.PROTOCOLS`); "": recommended
    calibrated: bool = True  # apply the calibration fitted for this model and constitution, if any
    use_store: bool = True  # False: compute every read again, and store none of them
    interactive: bool = True  # ahead of bulk work in the engine's queue


@dataclass(frozen=True, slots=True)
class Read:
    """One label-token reading: a prompt, an order, two log-probabilities.

    `logprob_first` and `logprob_second` are full-vocabulary log-probabilities (nats) of the labels
    that name the first and the second response in the order of the prompt.
    """

    order: Order
    logprob_first: float
    logprob_second: float
    prob_first: float  # softmax over the two labels
    label_mass: float  # exp(first) + exp(second), in [0, 1]
    prompt_tokens: int
    cached_tokens: int
    prompt_sha256: str  # of the prompt's token ids and the label ids
    stored: bool = False  # from the store; nothing was computed
    rationale: str = ""  # what the judge wrote before the read, if requested


@dataclass(frozen=True, slots=True)
class PrincipleVote:
    """One principle's vote, from its valid reads; `void_reads` counts the others."""

    principle_id: str
    trait: str
    weight: float  # of the principle, before the trait's weight
    prob_a: float  # P(response A is better by this principle), orders averaged
    order_gap: float | None  # |P(A first) - P(A second)|; None when only one order was read
    reads: tuple[Read, ...]
    void_reads: int = 0


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """The weights and the arithmetic behind a judgment."""

    name: str  # as given to the server: short name, hub id or folder name (never a full path)
    weights_sha256: str  # digest of the weights' index (file names, sizes, header bytes)
    tokenizer_sha256: str
    dtype: str
    engine: str  # e.g. "vllm 0.32.0 cpu"


@dataclass(frozen=True, slots=True)
class Provenance:
    """The receipt of a label: enough to reproduce the same number."""

    constitution_name: str
    constitution_version: str
    constitution_sha256: str
    model: ModelIdentity
    template_version: str
    principle_ids: tuple[str, ...]
    orders: tuple[Order, ...]
    seed: int
    protocol: str = "pairwise"  # or "pointwise"; "rating" and "writing" without a comparison
    calibration: str = ""  # digest of the calibration that was applied; "": none
    reader: str = ""  # digest of the fitted reader that was applied in its place; "": none


@dataclass(frozen=True, slots=True)
class Usage:
    """What the engine did.

    Stored reads are counted separately: they cost nothing, and their tokens are in no other count.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0  # of prompt_tokens, those taken from the engine's prefix cache
    output_tokens: int = 0
    reads: int = 0  # computed
    stored_reads: int = 0  # from the store

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
            self.output_tokens + other.output_tokens,
            self.reads + other.reads,
            self.stored_reads + other.stored_reads,
        )


@dataclass(frozen=True, slots=True)
class Judgment:
    """A soft label with its evidence and its receipt."""

    verdict: Verdict
    prob_a: float  # P(response A is better), in [0, 1], calibrated where provenance says so
    trait_probs: dict[str, float]  # the same per trait, calibrated by the same curve
    votes: tuple[PrincipleVote, ...]
    position_consistent: bool | None  # both orders name the same response; None with one order
    order_gap: float | None
    provenance: Provenance
    usage: Usage
    seconds: float
    raw_prob_a: float | None = None  # before calibration or reader; None: the same as prob_a
    spread: float = 0.0  # weighted standard deviation of P(A) over the reads, in [0, 0.5]

    @property
    def straddle(self) -> float:
        """How far prob_a ± spread reaches past 0.5 to the other side; 0 if it does not.

        With one principle and two orders, prob_a ± spread is exactly the range of the two reads.
        """
        prob = self.prob_a if self.raw_prob_a is None else self.raw_prob_a
        return max(0.0, self.spread - abs(prob - 0.5))


@dataclass(frozen=True, slots=True)
class Unjudged:
    """No label, and the reason. `detail` describes the problem and the remedy to a person."""

    reason: UnjudgedReason
    detail: str
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True)
class RankedCandidate:
    """A candidate's place in a ranking."""

    index: int  # position in the request
    rank: int  # 1 is best; equal strengths share a rank
    strength: float  # Bradley-Terry log-strength, mean 0 over the candidates
    standard_error: float


@dataclass(frozen=True, slots=True)
class Ranking:
    """Candidates in order, and the judged pairs behind it."""

    candidates: tuple[RankedCandidate, ...]  # best first
    pairs: tuple[tuple[int, int, Judgment | Unjudged], ...]  # (index a, index b, judgment)
    usage: Usage
    seconds: float


@dataclass(frozen=True, slots=True)
class PrincipleScore:
    """The score of one response by one principle: the expected rating."""

    principle_id: str
    trait: str
    weight: float
    score: float  # expected rating, mapped to [-1, 1]
    rating_probs: tuple[float, ...]  # P(rating i), lowest rating first, renormalized over ratings
    label_mass: float  # total probability of all ratings
    prompt_sha256: str
    stored: bool = False


@dataclass(frozen=True, slots=True)
class Score:
    """The judge's score of one response, for direct RLAIF (arXiv 2309.00267, section 2.2.3)."""

    score: float  # weighted mean over the principles, in [-1, 1]
    trait_scores: dict[str, float]
    principle_scores: tuple[PrincipleScore, ...]
    provenance: Provenance
    usage: Usage
    seconds: float


@dataclass(frozen=True, slots=True)
class WritingOptions:
    """How the judge writes a critique or a revision (arXiv 2212.08073, section 3.1)."""

    principle_id: str = ""  # "": one that applies, drawn with the seed
    max_tokens: int = 256
    temperature: float = 1.0
    seed: int = 0
    use_store: bool = True  # the same request gives the same text, so it may be stored
    interactive: bool = True


@dataclass(frozen=True, slots=True)
class Writing:
    """A critique or a revision. `complete` is False when it was truncated at max_tokens."""

    text: str
    complete: bool
    principle_id: str
    provenance: Provenance
    usage: Usage
    seconds: float


@dataclass(frozen=True, slots=True)
class PromptPreview:
    """One prompt exactly as the judge would read it, with its number of tokens."""

    principle_id: str
    order: Order
    text: str  # control tokens spelled out
    prompt_tokens: int
    labels: tuple[str, ...]
    prompt_sha256: str
