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
    min_label_mass: float = 0.1  # a read whose two labels together hold less probability is void
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


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reads: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
            self.output_tokens + other.output_tokens,
            self.reads + other.reads,
        )


@dataclass(frozen=True, slots=True)
class Judgment:
    """What the reads add up to: a soft label with its evidence and its receipt."""

    verdict: Verdict
    prob_a: float  # P(response A is better), in [0, 1]
    trait_probs: dict[str, float]  # the same per trait
    votes: tuple[PrincipleVote, ...]
    position_consistent: bool | None  # both orders name the same response; None with one order
    order_gap: float | None
    provenance: Provenance
    usage: Usage
    seconds: float


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
