"""Enumerations: domain value -> protobuf number, and back (`*_OF`)."""

from __future__ import annotations

from typing import Any

from judge_service.server_info import ServerState
from judge_service.types import Order, UnjudgedReason, Verdict
from judge_service.v1 import judge_pb2 as pb


def _inverse(table: dict[Any, Any]) -> dict[Any, Any]:
    return {value: key for key, value in table.items()}


ROLES: dict[Any, Any] = {
    "system": pb.ROLE_SYSTEM,
    "user": pb.ROLE_USER,
    "assistant": pb.ROLE_ASSISTANT,
}
ORDERS: dict[Any, Any] = {Order.AB: pb.ORDER_AB, Order.BA: pb.ORDER_BA}
VERDICTS: dict[Any, Any] = {v: pb.Verdict.Value(f"VERDICT_{v.name}") for v in Verdict}
REASONS: dict[Any, Any] = {
    r: pb.AbstentionReason.Value(f"ABSTENTION_REASON_{r.name}") for r in UnjudgedReason
}
STATES: dict[Any, Any] = {s: pb.ServerState.Value(f"SERVER_STATE_{s.name}") for s in ServerState}

ROLE_OF, ORDER_OF, VERDICT_OF = _inverse(ROLES), _inverse(ORDERS), _inverse(VERDICTS)
REASON_OF, STATE_OF = _inverse(REASONS), _inverse(STATES)
