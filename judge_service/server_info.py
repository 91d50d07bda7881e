"""What a judge server says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from judge_service.types import ModelIdentity


class ServerState(StrEnum):
    LOADING = "loading"  # the engine loads and warms up
    SERVING = "serving"
    DRAINING = "draining"  # finishing what it began, taking nothing new
    FAILED = "failed"  # the engine died; the server must be started again


@dataclass(frozen=True, slots=True)
class ConstitutionSummary:
    name: str
    version: str
    sha256: str  # digest of the content


@dataclass(frozen=True, slots=True)
class ServerLimits:
    max_context_tokens: int  # prompt and answer of one read; 0 until the engine is loaded
    max_message_bytes: int
    max_candidates: int  # of one ranking
    max_stream_in_flight: int  # items of one stream taken and not yet answered
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
    state: ServerState
    version: str  # of the server's software
    model: ModelIdentity | None  # None until the engine is loaded
    template_version: str
    limits: ServerLimits
    capabilities: tuple[str, ...]  # the RPCs offered, such as "JudgeService.ComparePair"
    constitutions: tuple[ConstitutionSummary, ...]  # the first is the default
    protocols: tuple[str, ...] = ()  # the ways of reading, for JudgeOptions.protocol
    inline_constitutions: bool = False  # whether a request may bring its own constitution
    calibrations: tuple[FittedCalibration, ...] = ()  # those fitted for this model; none: loading
