"""Types of GetServerInfo: state, model, limits and constitutions of a judge server."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from judge_service.types import ModelIdentity


class ServerState(StrEnum):
    """The life cycle of a judge server."""

    LOADING = "loading"  # the engine is loading and warming up
    SERVING = "serving"
    DRAINING = "draining"  # finishing its calls, accepting no new ones
    FAILED = "failed"  # the engine died; the server must be restarted


@dataclass(frozen=True, slots=True)
class ConstitutionSummary:
    """A constitution that a server offers."""

    name: str
    version: str
    sha256: str  # digest of the content


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Limits on requests."""

    max_context_tokens: int  # prompt and answer of one read; 0 until the engine is loaded
    max_message_bytes: int
    max_candidates: int  # of one ranking
    max_stream_in_flight: int  # items of one stream accepted and not yet answered
    max_concurrent_rpcs: int
    max_rationale_tokens: int  # of one rationale
    max_write_tokens: int  # of one critique or revision


@dataclass(frozen=True, slots=True)
class FittedCalibration:
    """A calibration that the server applies, and what it applies to."""

    constitution_sha256: str
    protocol: str
    sha256: str  # digest of the calibration


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """The answer of GetServerInfo."""

    state: ServerState
    version: str  # of the server's software
    model: ModelIdentity | None  # None until the engine is loaded
    template_version: str
    limits: ServerLimits
    capabilities: tuple[str, ...]  # the RPCs offered, such as "JudgeService.ComparePair"
    constitutions: tuple[ConstitutionSummary, ...]  # the first is the default
    protocols: tuple[str, ...] = ()  # values of JudgeOptions.protocol
    inline_constitutions: bool = False  # whether a request may contain its own constitution
    calibrations: tuple[FittedCalibration, ...] = ()  # fitted for this model; () while loading
