"""A judge server's description of itself."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from judge_service.types import ModelIdentity


class ServerState(StrEnum):
    """The life cycle of a server; it judges only while SERVING.

    LOADING also while an engine that runs elsewhere is out of reach.
    """

    LOADING = "loading"  # the engine is loading and warming up
    SERVING = "serving"
    DRAINING = "draining"  # finishing calls, accepting no new ones
    FAILED = "failed"  # the engine died; restart the server


@dataclass(frozen=True, slots=True)
class ConstitutionSummary:
    """A constitution's name, version and digest, by which a request can pin it."""

    name: str
    version: str
    sha256: str  # digest of the content


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """The limits of one server, from its settings and its model."""

    max_context_tokens: int  # prompt and answer of one read; 0 until the engine is loaded
    max_message_bytes: int
    max_candidates: int  # of one ranking
    max_stream_in_flight: int  # items of one stream accepted and not yet answered
    max_concurrent_rpcs: int
    max_rationale_tokens: int  # of one rationale
    max_write_tokens: int  # of one critique or revision


@dataclass(frozen=True, slots=True)
class FittedCalibration:
    """A calibration that the server applies, and where."""

    constitution_sha256: str
    protocol: str
    sha256: str  # digest of the calibration


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """A server's state, model, limits and constitutions, as GetServerInfo reports them."""

    state: ServerState
    version: str  # of the server's software
    model: ModelIdentity | None  # None until the engine is loaded
    template_version: str
    limits: ServerLimits
    capabilities: tuple[str, ...]  # the RPCs offered, such as "JudgeService.ComparePair"
    constitutions: tuple[ConstitutionSummary, ...]  # the first is the default
    protocols: tuple[str, ...] = ()  # valid values of JudgeOptions.protocol
    inline_constitutions: bool = False  # whether a request may carry its own constitution
    calibrations: tuple[FittedCalibration, ...] = ()  # fitted for this model; empty while loading
