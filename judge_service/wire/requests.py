"""Conversion between protobuf and domain types: requests.

The client writes them; the server reads and validates them. Values returned by `read_*` are valid;
an invalid one raises InvalidRequest, which names the field.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence

from constitution.errors import nearest
from constitution.schema import Constitution
from judge_service.errors import InvalidRequest
from judge_service.types import Comparison, Conversation, JudgeOptions, Order, WritingOptions
from judge_service.v1 import judge_pb2 as pb
from judge_service.wire.constitutions import conversation_from_proto, conversation_to_proto
from judge_service.wire.enums import ORDER_OF, ORDERS, ROLE_OF

MAX_REQUEST_ID = 128
MAX_ITEM_ID = 1024  # characters, of a stream's items; every answer repeats it
MAX_RATIONALE_SAMPLES = 16


# ---------------------------------------------------------------- written by the client


def constitution_ref(constitution: str | Constitution) -> pb.ConstitutionRef:
    """Reference to a constitution in a request.

    constitution: a name, a digest (64 hexadecimal digits), "" for the server's default, or a
    Constitution, which is sent inline as YAML.
    """
    if isinstance(constitution, Constitution):
        from constitution.writer import to_yaml

        return pb.ConstitutionRef(yaml=to_yaml(constitution))
    if re.fullmatch(r"[0-9a-f]{64}", constitution):
        return pb.ConstitutionRef(sha256=constitution)
    return pb.ConstitutionRef(name=constitution)


def compare_request(
    comparison: Comparison, constitution: pb.ConstitutionRef, options: JudgeOptions
) -> pb.ComparePairRequest:
    """The request for one comparison, without a request id."""
    return pb.ComparePairRequest(
        constitution=constitution,
        conversation=conversation_to_proto(comparison.conversation),
        response_a=comparison.response_a,
        response_b=comparison.response_b,
        options=options_to_proto(options),
    )


def options_to_proto(options: JudgeOptions) -> pb.JudgeOptions:
    """The options of a comparison, score or ranking, as `read_options` reads them."""
    n = options.sample_principles
    return pb.JudgeOptions(
        orders=[ORDERS[order] for order in options.orders],
        principles=pb.PRINCIPLE_SELECTION_ALL if n is None else pb.PRINCIPLE_SELECTION_SAMPLE,
        sample_size=n or 0,
        seed=options.seed,
        tie_margin=options.tie_margin,
        max_straddle=options.max_straddle,
        min_label_mass=options.min_label_mass,
        max_rationale_tokens=options.max_rationale_tokens,
        rationale_samples=options.rationale_samples,
        protocol=options.protocol,
        raw=not options.calibrated,
        cache=_cache_mode(options.use_store),
        priority=_priority(options.interactive),
    )


def writing_options_to_proto(options: WritingOptions) -> pb.WritingOptions:
    """The options of a critique or revision, as `read_writing_options` reads them."""
    return pb.WritingOptions(
        principle_id=options.principle_id,
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        seed=options.seed,
        cache=_cache_mode(options.use_store),
        priority=_priority(options.interactive),
    )


def _priority(interactive: bool) -> pb.Priority:
    return pb.PRIORITY_INTERACTIVE if interactive else pb.PRIORITY_BULK


def _cache_mode(use_store: bool) -> pb.CacheMode:
    return pb.CACHE_MODE_USE if use_store else pb.CACHE_MODE_BYPASS


# ---------------------------------------------------------------- read by the server


def read_comparison(request: pb.ComparePairRequest | pb.PreviewPromptRequest) -> Comparison:
    """The pair of a request, validated. Empty responses pass: the judge abstains on them."""
    check_request_id(request.request_id)
    return Comparison(
        id=request.request_id,
        conversation=read_conversation(request.conversation),
        response_a=request.response_a,
        response_b=request.response_b,
    )


def read_candidates(request: pb.RankCandidatesRequest, max_candidates: int) -> tuple[str, ...]:
    """The candidates of a request: 2 to `max_candidates`."""
    check_request_id(request.request_id)
    count = len(request.candidates)
    if not 2 <= count <= max_candidates:
        raise InvalidRequest(
            "candidates", f"invalid number of candidates: {count}; send 2 to {max_candidates}"
        )
    return tuple(request.candidates)


def read_conversation(messages: Sequence[pb.Message]) -> Conversation:
    """The conversation of a request; its last message must have text."""
    if not messages:
        raise InvalidRequest("conversation", "empty; send at least one user message")
    for index, message in enumerate(messages):
        if message.role not in ROLE_OF:
            raise InvalidRequest(
                f"conversation[{index}].role",
                f"unknown role: {message.role}; send ROLE_SYSTEM, ROLE_USER or ROLE_ASSISTANT",
            )
    if not messages[-1].content.strip():
        raise InvalidRequest(
            f"conversation[{len(messages) - 1}].content",
            "empty; send the message that the responses answer",
        )
    return conversation_from_proto(messages)


def read_critique(request: pb.ReviseCandidateRequest) -> str:
    """The critique of a request; it must have text."""
    if not request.critique.strip():
        raise InvalidRequest(
            "critique", "empty; send the text of CritiqueCandidate, or a critique of your own"
        )
    return request.critique


def check_principle(constitution: Constitution, principle_id: str) -> None:
    """Raise InvalidRequest for a principle id that the constitution does not have."""
    try:
        constitution.principle(principle_id[:65])  # an id has up to 64 characters
    except KeyError as unknown:
        raise InvalidRequest("options.principle_id", unknown.args[0]) from None


def read_options(
    options: pb.JudgeOptions, *, max_rationale_tokens: int, protocols: Collection[str]
) -> JudgeOptions:
    """The options of a request: each validated, absent ones at their defaults."""
    orders = _orders(options)
    sampled = options.principles == pb.PRINCIPLE_SELECTION_SAMPLE
    if sampled != (options.sample_size > 0):
        raise InvalidRequest(
            "options.sample_size",
            f"invalid sample size: {options.sample_size}; send 1 or more with "
            "PRINCIPLE_SELECTION_SAMPLE, 0 without",
        )

    # These two distinguish an explicit 0 from an absent field.
    default = JudgeOptions()
    mass = options.min_label_mass if options.HasField("min_label_mass") else default.min_label_mass
    straddle = None
    if options.HasField("max_straddle"):
        straddle = _within("options.max_straddle", options.max_straddle, 0.5)
    return JudgeOptions(
        orders=orders or default.orders,
        sample_principles=options.sample_size if sampled else None,
        seed=options.seed,
        tie_margin=_within("options.tie_margin", options.tie_margin, 0.5),
        max_straddle=straddle,
        min_label_mass=_within("options.min_label_mass", mass, 1.0),
        max_rationale_tokens=_up_to(
            "options.max_rationale_tokens", options.max_rationale_tokens, max_rationale_tokens
        ),
        rationale_samples=_rationale_samples(options),
        protocol=_protocol(options.protocol, protocols),
        calibrated=not options.raw,
        use_store=options.cache != pb.CACHE_MODE_BYPASS,
        interactive=options.priority != pb.PRIORITY_BULK,
    )


def read_writing_options(options: pb.WritingOptions, *, max_tokens: int) -> WritingOptions:
    """The options of a request: each validated, absent ones at their defaults."""
    default = WritingOptions()
    temperature = options.temperature if options.HasField("temperature") else default.temperature
    requested = _up_to("options.max_tokens", options.max_tokens, max_tokens)
    return WritingOptions(
        principle_id=options.principle_id,
        max_tokens=requested or min(default.max_tokens, max_tokens),
        temperature=_within("options.temperature", temperature, 2.0),
        seed=options.seed,
        use_store=options.cache != pb.CACHE_MODE_BYPASS,
        interactive=options.priority != pb.PRIORITY_BULK,
    )


def _orders(options: pb.JudgeOptions) -> tuple[Order, ...]:
    orders = tuple(ORDER_OF[order] for order in options.orders if order in ORDER_OF)
    if len(set(orders)) != len(options.orders):
        raise InvalidRequest(
            "options.orders",
            f"unknown or repeated order: {list(options.orders)}; send ORDER_AB and ORDER_BA, each "
            "at most once",
        )
    if len(orders) == 1 and options.protocol == "pointwise":
        raise InvalidRequest(
            "options.orders",
            f"order {orders[0]} with the pointwise protocol; send no orders, as it reads each "
            "response alone",
        )
    return orders


def _rationale_samples(options: pb.JudgeOptions) -> int:
    field, samples = "options.rationale_samples", options.rationale_samples or 1
    if samples > 1 and not options.max_rationale_tokens:
        raise InvalidRequest(
            field, f"{samples} samples without rationales; set max_rationale_tokens above 0"
        )
    return _up_to(field, samples, MAX_RATIONALE_SAMPLES)


def _protocol(name: str, known: Collection[str]) -> str:
    if name and name not in known:
        shown = name if len(name) <= 64 else name[:61] + "..."
        available = f"this server has: {', '.join(known)}"
        hint = "; ".join(part for part in (nearest(name, known), available) if part)
        raise InvalidRequest("options.protocol", f"unknown protocol: '{shown}'; {hint}")
    return name


def _within(field: str, value: float, high: float) -> float:
    if math.isnan(value) or not 0.0 <= value <= high:
        raise InvalidRequest(field, f"out of range: {value:g}; send a value in [0, {high:g}]")
    return value


def _up_to(field: str, value: int, limit: int) -> int:
    if value > limit:
        raise InvalidRequest(field, f"too large: {value}; this server allows up to {limit}")
    return value


def is_request_id(request_id: str) -> bool:
    """Whether a caller's request id is short and printable, and so safe to log."""
    return len(request_id) <= MAX_REQUEST_ID and request_id.isprintable()


def check_request_id(request_id: str) -> None:
    """Raise InvalidRequest for a request id that is too long or not printable."""
    if not is_request_id(request_id):
        raise InvalidRequest(
            "request_id", f"too long or not printable; send up to {MAX_REQUEST_ID} characters"
        )
