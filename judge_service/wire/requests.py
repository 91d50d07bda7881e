"""protobuf <-> domain: requests. The client writes them, the server reads and checks them.

What `read_*` return can be trusted; what they refuse is an InvalidRequest that names the field.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence

from constitution.schema import Constitution, nearest
from judge_service.errors import InvalidRequest
from judge_service.types import Comparison, Conversation, JudgeOptions, WritingOptions
from judge_service.v1 import judge_pb2 as pb
from judge_service.wire.constitutions import conversation_from_proto, conversation_to_proto
from judge_service.wire.enums import ORDER_OF, ORDERS, ROLE_OF

MAX_REQUEST_ID = 128
MAX_ITEM_ID = 1024  # of a stream's items; every answer carries it
MAX_RATIONALE_SAMPLES = 16


# ---------------------------------------------------------------- written by the client


def constitution_ref(constitution: str | Constitution) -> pb.ConstitutionRef:
    """By name, by digest (64 hexadecimal digits), inline, or "" for the server's default."""
    if isinstance(constitution, Constitution):
        from constitution.writer import to_yaml

        return pb.ConstitutionRef(yaml=to_yaml(constitution))
    if re.fullmatch(r"[0-9a-f]{64}", constitution):
        return pb.ConstitutionRef(sha256=constitution)
    return pb.ConstitutionRef(name=constitution)


def compare_request(
    comparison: Comparison, constitution: pb.ConstitutionRef, options: JudgeOptions
) -> pb.ComparePairRequest:
    return pb.ComparePairRequest(
        constitution=constitution,
        conversation=conversation_to_proto(comparison.conversation),
        response_a=comparison.response_a,
        response_b=comparison.response_b,
        options=options_to_proto(options),
    )


def options_to_proto(options: JudgeOptions) -> pb.JudgeOptions:
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
    """The pair of a request, checked. An empty response is let through: the judge abstains."""
    check_request_id(request.request_id)
    return Comparison(
        id=request.request_id,
        conversation=read_conversation(request.conversation),
        response_a=request.response_a,
        response_b=request.response_b,
    )


def read_candidates(request: pb.RankCandidatesRequest, most: int) -> tuple[str, ...]:
    """The candidates of a request: from 2 to `most`."""
    check_request_id(request.request_id)
    found = len(request.candidates)
    if not 2 <= found <= most:
        raise InvalidRequest("candidates", f"{found} given; a ranking needs from 2 to {most}")
    return tuple(request.candidates)


def read_conversation(messages: Sequence[pb.Message]) -> Conversation:
    if not messages:
        raise InvalidRequest("conversation", "empty; send at least the user's turn")
    for index, message in enumerate(messages):
        if message.role not in ROLE_OF:
            known = "must be ROLE_SYSTEM, ROLE_USER or ROLE_ASSISTANT"
            raise InvalidRequest(f"conversation[{index}].role", known)
    if not messages[-1].content.strip():
        raise InvalidRequest(
            f"conversation[{len(messages) - 1}].content",
            "empty; the last turn is what the responses answer",
        )
    return conversation_from_proto(messages)


def read_critique(request: pb.ReviseCandidateRequest) -> str:
    if not request.critique.strip():
        raise InvalidRequest("critique", "empty; send what CritiqueCandidate wrote, or your own")
    return request.critique


def check_principle(constitution: Constitution, principle_id: str) -> None:
    try:
        constitution.principle(principle_id[:65])  # an id has up to 64 characters
    except KeyError as unknown:
        raise InvalidRequest("options.principle_id", unknown.args[0]) from None


def read_options(
    options: pb.JudgeOptions, *, max_rationale_tokens: int, protocols: Collection[str]
) -> JudgeOptions:
    """Options with the defaults filled in, each in its range."""
    orders = tuple(ORDER_OF[order] for order in options.orders if order in ORDER_OF)
    if len(set(orders)) != len(options.orders):
        raise InvalidRequest("options.orders", "ORDER_AB and ORDER_BA, each at most once")
    if len(orders) == 1 and options.protocol == "pointwise":
        raise InvalidRequest(
            "options.orders", "pointwise reads each response alone: leave it empty"
        )
    sampled = options.principles == pb.PRINCIPLE_SELECTION_SAMPLE
    if sampled != (options.sample_size > 0):
        raise InvalidRequest(
            "options.sample_size",
            f"{options.sample_size}; 1 or more with PRINCIPLE_SELECTION_SAMPLE, else 0",
        )
    given = JudgeOptions()
    mass = options.min_label_mass if options.HasField("min_label_mass") else given.min_label_mass
    straddle = None
    if options.HasField("max_straddle"):
        straddle = _within("options.max_straddle", options.max_straddle, 0.5)
    return JudgeOptions(
        orders=orders or given.orders,
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
    """Options with the defaults filled in, each in its range."""
    given = WritingOptions()
    temperature = options.temperature if options.HasField("temperature") else given.temperature
    wanted = _up_to("options.max_tokens", options.max_tokens, max_tokens)
    return WritingOptions(
        principle_id=options.principle_id,
        max_tokens=wanted or min(given.max_tokens, max_tokens),
        temperature=_within("options.temperature", temperature, 2.0),
        seed=options.seed,
        use_store=options.cache != pb.CACHE_MODE_BYPASS,
        interactive=options.priority != pb.PRIORITY_BULK,
    )


def _rationale_samples(options: pb.JudgeOptions) -> int:
    field, samples = "options.rationale_samples", options.rationale_samples or 1
    if samples > 1 and not options.max_rationale_tokens:
        raise InvalidRequest(field, f"{samples}; more than 1 needs max_rationale_tokens above 0")
    return _up_to(field, samples, MAX_RATIONALE_SAMPLES)


def _protocol(name: str, known: Collection[str]) -> str:
    if name and name not in known:
        shown = name if len(name) <= 64 else name[:61] + "..."
        listed = f"this server has: {', '.join(known)}"
        hint = "; ".join(part for part in (nearest(name, known), listed) if part)
        raise InvalidRequest("options.protocol", f"unknown '{shown}'; {hint}")
    return name


def _within(field: str, value: float, high: float) -> float:
    if math.isnan(value) or not 0.0 <= value <= high:
        raise InvalidRequest(field, f"{value:g} is outside [0, {high:g}]")
    return value


def _up_to(field: str, value: int, most: int) -> int:
    if value > most:
        raise InvalidRequest(field, f"{value}; this server allows up to {most}")
    return value


def is_request_id(request_id: str) -> bool:
    """Whether a caller's name for a request may stand in logs."""
    return len(request_id) <= MAX_REQUEST_ID and request_id.isprintable()


def check_request_id(request_id: str) -> None:
    if not is_request_id(request_id):
        raise InvalidRequest("request_id", f"up to {MAX_REQUEST_ID} printable characters")
