"""The words of the court: what is compared, what is read, what is found, and where it came from.

A failed judgment is never a number: it is `Unjudged(reason)`. Everything here is a frozen value;
nothing here knows the engine, the wire or the constitution's files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from constitution.schema import Message

Conversation = tuple[Message, ...]


class Order(StrEnum):
    """Which response stands first in the judge's prompt."""

    AB = "AB"
    BA = "BA"


class Verdict(StrEnum):
    A = "A"
    B = "B"
    TIE = "TIE"


class UnjudgedReason(StrEnum):
    """Why there is no label. The reasons are part of the contract: add, never rename."""

    TOO_LONG = "too_long"  # the prompt does not fit the judge's context
    EMPTY_RESPONSE = "empty_response"  # nothing but white space to judge
    LOW_LABEL_MASS = "low_label_mass"  # the judge wanted to say something other than a label
    NO_PRINCIPLE_APPLIES = "no_principle_applies"  # every principle's scope excludes the prompt
    ENGINE_FAILED = "engine_failed"  # the engine raised or died
    CANCELLED = "cancelled"  # the caller went away or the deadline passed
    UNDECIDED = "undecided"  # the reads lie on both sides of one half, further than was allowed
    REFUSED = "refused"  # the request itself is wrong; asking again gives the same


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two responses to one conversation, before anybody knows which is better."""

    id: str
    conversation: Conversation
    response_a: str
    response_b: str


@dataclass(frozen=True, slots=True)
class JudgeOptions:
    """How a caller wants a judgment made; the defaults are the recommended way."""

    orders: tuple[Order, ...] = (Order.AB, Order.BA)
    sample_principles: int | None = None  # None: all that apply; n: a seeded sample of n of them
    seed: int = 0
    tie_margin: float = 0.0  # |prob_a - 0.5| below this is a TIE
    max_straddle: float | None = None  # abstain when `straddle` is above this; None: never
    min_label_mass: float = 0.1  # a read whose labels together hold less probability is void
    max_rationale_tokens: int = 0  # 0: read at once; else the judge first writes a rationale
    rationale_samples: int = 1  # rationales per read: 1 is greedy, more are drawn and averaged
    protocol: str = ""  # the way of reading (`reading.PROTOCOLS`); "": the recommended one
    calibrated: bool = True  # apply the calibration fitted for this model and constitution, if any
    use_store: bool = True  # False: compute every read again, and keep none of them
    interactive: bool = True  # before bulk work in the engine's queue


@dataclass(frozen=True, slots=True)
class Read:
    """One label-token reading: a prompt, an order, two log-probabilities.

    `logprob_first` and `logprob_second` are full-vocabulary log-probabilities (nats) of the labels
    that name the first and the second response as they stand in the prompt.
    """

    order: Order
    logprob_first: float
    logprob_second: float
    prob_first: float  # softmax over the two labels
    label_mass: float  # exp(first) + exp(second), in [0, 1]
    prompt_tokens: int
    cached_tokens: int
    prompt_sha256: str  # of the prompt token ids and label ids: what was asked, to the token
    stored: bool = False  # it was found in the store; nothing was computed
    rationale: str = ""  # what the judge wrote before it was read, where that was asked for


@dataclass(frozen=True, slots=True)
class PrincipleVote:
    """One principle's opinion, from its valid reads; `void_reads` counts those under the mass."""

    principle_id: str
    trait: str
    weight: float  # principle weight, before the trait's weight
    prob_a: float  # P(response A is better by this principle), orders averaged
    order_gap: float | None  # |P(A first) - P(A second)|; None when only one order was read
    reads: tuple[Read, ...]
    void_reads: int = 0


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which weights and which arithmetic judged."""

    name: str  # as given to the server: short name, hub id or folder name (never a full path)
    weights_sha256: str  # digest of the weights' index (file names, sizes, header bytes)
    tokenizer_sha256: str
    dtype: str
    engine: str  # e.g. "vllm 0.32.0 cpu"


@dataclass(frozen=True, slots=True)
class Provenance:
    """The receipt of a label: enough to ask for it again and get the same number."""

    constitution_name: str
    constitution_version: str
    constitution_sha256: str
    model: ModelIdentity
    template_version: str
    principle_ids: tuple[str, ...]
    orders: tuple[Order, ...]
    seed: int
    protocol: str = "pairwise"  # the way of reading
    calibration: str = ""  # digest of the calibration that was applied; "": none


@dataclass(frozen=True, slots=True)
class Usage:
    """What the engine did. Reads that were found in the store are counted apart: they cost nothing,
    and their tokens are in no other count."""

    prompt_tokens: int = 0
    cached_tokens: int = 0  # those of prompt_tokens that the engine had computed before
    output_tokens: int = 0
    reads: int = 0  # computed
    stored_reads: int = 0  # found in the store

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
    """What the reads add up to: a soft label with its evidence and its receipt."""

    verdict: Verdict
    prob_a: float  # P(response A is better), in [0, 1], calibrated where provenance says so
    trait_probs: dict[str, float]  # the same per trait, never calibrated
    votes: tuple[PrincipleVote, ...]
    position_consistent: bool | None  # both orders name the same response; None with one order
    order_gap: float | None
    provenance: Provenance
    usage: Usage
    seconds: float
    raw_prob_a: float | None = None  # before calibration; None: the same as prob_a
    spread: float = 0.0  # weighted standard deviation of P(A) over the reads, in [0, 0.5]

    @property
    def straddle(self) -> float:
        """How far prob_a ± spread reaches beyond one half on its shorter side; 0 when it does not.

        With one principle and two orders, prob_a ± spread is exactly the span of the two reads.
        """
        prob = self.prob_a if self.raw_prob_a is None else self.raw_prob_a
        return max(0.0, self.spread - abs(prob - 0.5))


@dataclass(frozen=True, slots=True)
class Unjudged:
    """No label, and why. `detail` is a sentence for a person: what was wrong and the remedy."""

    reason: UnjudgedReason
    detail: str
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True)
class RankedCandidate:
    index: int  # place in the request
    rank: int  # 1 is best; equal strengths share a rank
    strength: float  # Bradley-Terry log-strength, mean 0 over the candidates
    standard_error: float


@dataclass(frozen=True, slots=True)
class Ranking:
    candidates: tuple[RankedCandidate, ...]  # best first
    pairs: tuple[tuple[int, int, Judgment | Unjudged], ...]  # (a, b, what the judge found)
    usage: Usage
    seconds: float


@dataclass(frozen=True, slots=True)
class PrincipleScore:
    """How good one response is by one principle: the expected rating."""

    principle_id: str
    trait: str
    weight: float
    score: float  # expected rating, mapped to [-1, 1]
    rating_probs: tuple[float, ...]  # P(rating i), lowest rating first, renormalized over ratings
    label_mass: float  # of all ratings together
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

    principle_id: str = ""  # "": one that applies is drawn with the seed
    max_tokens: int = 256
    temperature: float = 1.0
    seed: int = 0
    use_store: bool = True  # the same request gives the same text, so it may be kept
    interactive: bool = True


@dataclass(frozen=True, slots=True)
class Writing:
    """A critique or a revision. `complete` is False when it was cut at max_tokens."""

    text: str
    complete: bool
    principle_id: str
    provenance: Provenance
    usage: Usage
    seconds: float


@dataclass(frozen=True, slots=True)
class PromptPreview:
    """One prompt as the judge would read it: pieces of text, and how many tokens it has."""

    principle_id: str
    order: Order
    text: str  # control tokens spelled out
    prompt_tokens: int
    labels: tuple[str, ...]
    prompt_sha256: str
