"""What an operator can set of a judge server; the defaults are safe for one machine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_serializer,
    field_validator,
)
from pydantic_core import PydanticCustomError

from constitution import DEFAULT_CONSTITUTION
from constitution.errors import nearest
from constitution.validation import FieldProblem, field_problems
from hardware.dtypes import Dtype
from judge_service.engines import ENGINES
from judge_service.errors import ServerStartError
from judge_service.settings_checks import conflicts, is_loopback
from judge_service.store.base import display_name, is_url


class SettingsError(ServerStartError):
    """Invalid settings; `problems` holds (the setting's name, what is wrong) pairs.

    The message has a line per problem.
    """

    def __init__(self, problems: Iterable[tuple[str, str]]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(text for _, text in self.problems))


MODEL = "Model"
CONSTITUTIONS = "Constitution"
NETWORK = "Network"
SECURITY = "Security"
STORE = "Store"
LIMITS = "Limits"
OBSERVABILITY = "Observability"
GROUPS = (MODEL, CONSTITUTIONS, NETWORK, SECURITY, STORE, LIMITS, OBSERVABILITY)
"""The groups of settings, in the order in which `--help` lists them."""


@dataclass(frozen=True, slots=True)
class Shown:
    """How a setting is shown: its group, its unit or kind of value, and its flags.

    names: the flags, where they are not --its-name. negation: a flag that takes the setting back.
    """

    group: str
    unit: str = ""
    names: tuple[str, ...] = ()
    negation: str = ""


class ServerSettings(BaseModel):
    """The settings of a judge server, validated one by one and together.

    Only what is passed counts: files, environment and flags are read in settings_sources.py. Each
    field is also a flag, whose help is the field's description (settings_flags.py).

    Raises SettingsError, which names each invalid setting, and the nearest of an unknown one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Annotated[str, Shown(MODEL, "model")] = Field(
        min_length=1,
        description="Judge model: a folder or a hub id; with engine openai, its name at the "
        "model server; with engine planted, planted:FILE.",
    )
    constitutions: Annotated[
        tuple[str, ...], Shown(CONSTITUTIONS, "name or file", names=("--constitution", "-c"))
    ] = Field(
        (DEFAULT_CONSTITUTION,),
        min_length=1,
        description="Constitution to judge by, a shipped name or a YAML file; the first of "
        "several is the default.",
    )
    allow_inline_constitutions: Annotated[
        bool,
        Shown(CONSTITUTIONS, names=("--allow-inline",)),
    ] = Field(
        False,
        description="Accept constitutions sent with a request, as YAML text: callers then write "
        "part of the judge's prompt.",
    )
    calibrations: Annotated[
        tuple[str, ...], Shown(CONSTITUTIONS, "file", names=("--calibration",))
    ] = Field(
        (),
        description="Calibration file; it applies to the model and constitution it was fitted for.",
    )
    engine: Annotated[str, Shown(MODEL)] = Field(
        "vllm",
        description="How the model runs. vllm: in this server. openai: behind the "
        "OpenAI-compatible server at openai_url, such as `vllm serve`. planted: rules in place "
        "of a model, for experiments; whatever it judges says so.",
    )
    openai_url: Annotated[str | None, Shown(MODEL, "URL")] = Field(
        None,
        pattern=r"^https?://[^/?#@\s]+(/[^?#\s]*)?$",
        description="Base URL of the model server, such as http://127.0.0.1:8000/v1. Its key is "
        "read from the environment alone: RLAIF_OPENAI_API_KEY.",
    )
    openai_tokenizer: Annotated[str | None, Shown(MODEL, "model")] = Field(
        None,
        min_length=1,
        description="Folder or hub id with the tokenizer of the model at openai_url. Unset: what "
        "`model` names.",
    )
    tensor_parallel_size: Annotated[int, Shown(MODEL, "GPUs")] = Field(
        1,
        ge=1,
        description="GPUs over which vLLM splits the model; must divide its number of attention "
        "heads.",
    )
    kv_cache_gib: Annotated[float | None, Shown(MODEL, "GiB")] = Field(
        None,
        gt=0,
        description="Memory for vLLM's KV cache, GiB. Unset: 1 on a CPU, what is free on a GPU.",
    )
    dtype: Annotated[Dtype, Shown(MODEL)] = Field(
        "auto",
        description="Number format of weights and activations: bfloat16, float16 or float32. "
        "auto: bfloat16 where the hardware multiplies it natively, else float32, which takes "
        "twice the memory.",
    )
    step_tokens: Annotated[int | None, Shown(MODEL, "tokens")] = Field(
        None,
        ge=64,
        description="Prompt tokens that vLLM computes in one step; other requests are scheduled "
        "between steps. Unset: on a CPU what takes about two seconds, on a GPU vLLM's default.",
    )
    max_context_tokens: Annotated[int | None, Shown(MODEL, "tokens")] = Field(
        None,
        ge=64,
        description="Longest judge prompt with its answer, tokens. null: the model's limit, at "
        "most 8192.",
    )
    host: Annotated[str, Shown(NETWORK, "address")] = Field(
        "127.0.0.1",
        description="Address to listen on. Beyond loopback it needs tls_certificate and one of "
        "tokens and tls_client_ca, or insecure.",
    )
    port: Annotated[int, Shown(NETWORK, "port")] = Field(
        50051, ge=0, le=65535, description="Port to listen on; 0 picks a free one."
    )
    insecure: Annotated[bool, Shown(SECURITY)] = Field(
        False,
        description="Listen beyond this machine without TLS and authentication: anybody who "
        "reaches the server may use it.",
    )
    tls_certificate: Annotated[Path | None, Shown(SECURITY, "file")] = Field(
        None,
        description="PEM file with the server's certificate, followed by its chain. Unset: plain "
        "text. Read again on SIGHUP, like the other TLS files.",
    )
    tls_key: Annotated[Path | None, Shown(SECURITY, "file")] = Field(
        None, description="PEM file with the private key of tls_certificate."
    )
    tls_client_ca: Annotated[Path | None, Shown(SECURITY, "file")] = Field(
        None,
        description="PEM file with the authorities that must have signed a caller's certificate "
        "(mTLS). Unset: callers need no certificate.",
    )
    tokens: Annotated[Path | None, Shown(SECURITY, "file")] = Field(
        None,
        description="YAML file with the digests, scopes and quotas of bearer tokens. Read again "
        "when it changes; a missing or empty file admits nobody. Unset: no token is needed.",
    )
    reflection: Annotated[bool | None, Shown(NETWORK, negation="--no-reflection")] = Field(
        None, description="gRPC server reflection. Unset: on loopback only."
    )
    store: Annotated[Path | str | None, Shown(STORE, "file or URL", negation="--no-store")] = Field(
        None,
        repr=False,  # a password may be in it
        description="Where the judge's reads are kept, so that nothing is computed twice: an "
        "SQLite file on a local disk, which servers of one machine may share, or "
        "postgresql+psycopg://user@host/database for several machines. null: a temporary file, "
        "deleted when the server ends.",
    )
    store_scope: Annotated[Literal["shared", "caller"], Shown(STORE)] = Field(
        "shared",
        description="Whose stored reads answer a call. shared: everybody's. caller: the token's "
        "own, so that cache_hit tells nobody what others have asked; what two callers ask is "
        "computed twice.",
    )
    max_concurrent_rpcs: Annotated[int, Shown(LIMITS, "calls")] = Field(
        256,
        ge=1,
        description="Calls at the same time, a stream counting as one; more are refused.",
    )
    max_message_bytes: Annotated[int, Shown(LIMITS, "bytes")] = Field(
        4 * 2**20, ge=1024, description="Largest request or response, bytes."
    )
    max_fields: Annotated[int, Shown(LIMITS, "fields")] = Field(
        8192,
        ge=64,
        description="Fields and list elements of one request, nested ones included; a message of a "
        "conversation has three.",
    )
    request_seconds: Annotated[float, Shown(LIMITS, "seconds")] = Field(
        60.0, gt=0, description="How long one request may take to arrive, once admitted, seconds."
    )
    stream_idle_seconds: Annotated[float, Shown(LIMITS, "seconds")] = Field(
        300.0,
        gt=0,
        description="How long a stream stays open on which nothing is sent, read or judged, "
        "seconds.",
    )
    connection_idle_seconds: Annotated[float, Shown(LIMITS, "seconds")] = Field(
        300.0, gt=0, description="How long a connection without a call stays open, seconds."
    )
    connection_age_seconds: Annotated[float, Shown(LIMITS, "seconds")] = Field(
        7200.0,
        gt=0,
        description="How long a connection accepts calls, seconds; clients then open another, and "
        "calls on the old one have ten minutes to end.",
    )
    max_stream_in_flight: Annotated[int, Shown(LIMITS, "items")] = Field(
        64, ge=1, le=4096, description="Items of one stream that are accepted and not yet answered."
    )
    max_candidates: Annotated[int, Shown(LIMITS, "candidates")] = Field(
        32, ge=2, description="Candidates of one ranking: 32 make up to 112 pairs."
    )
    max_principles: Annotated[int, Shown(LIMITS, "principles")] = Field(
        64,
        ge=1,
        description="Principles of one constitution: each costs two reads per comparison.",
    )
    max_rationale_tokens: Annotated[int, Shown(LIMITS, "tokens")] = Field(
        512,
        ge=0,
        description="Tokens of one rationale, of which each read writes its own; 0 allows none.",
    )
    max_write_tokens: Annotated[int, Shown(LIMITS, "tokens")] = Field(
        1024, ge=1, description="Tokens of one critique or revision."
    )
    grace_seconds: Annotated[float, Shown(NETWORK, "seconds")] = Field(
        10.0, ge=0, description="How long calls may go on after SIGTERM, seconds."
    )
    metrics_port: Annotated[int | None, Shown(OBSERVABILITY, "port")] = Field(
        None,
        ge=0,
        le=65535,
        description="Port that serves Prometheus metrics at /metrics over plain HTTP; 0 picks a "
        "free one. Unset: no metrics.",
    )
    metrics_host: Annotated[str, Shown(OBSERVABILITY, "address")] = Field(
        "127.0.0.1",
        description="Address for the metrics. They carry counts, and the names of callers and "
        "constitutions, but no text. Beyond loopback it needs metrics_insecure.",
    )
    metrics_insecure: Annotated[bool, Shown(OBSERVABILITY)] = Field(
        False,
        description="Serve metrics beyond this machine: without TLS and authentication, to anybody "
        "who reaches the port.",
    )
    otlp_endpoint: Annotated[str | None, Shown(OBSERVABILITY, "URL")] = Field(
        None,
        pattern=r"^https?://",
        repr=False,  # a password may be in it
        description="OpenTelemetry collector for traces over OTLP, such as "
        "http://127.0.0.1:4317. Unset: no traces.",
    )
    log_format: Annotated[Literal["text", "json"], Shown(OBSERVABILITY)] = Field(
        "text", description="Lines of text, or one JSON object per line."
    )
    exit_on_stdin_close: Annotated[bool, Shown(NETWORK)] = Field(
        False,
        description="Stop when standard input ends: a server started over a pipe then never "
        "outlives the process that started it.",
    )

    @field_validator("engine")
    @classmethod
    def _known_engine(cls, engine: str) -> str:
        if engine in ENGINES:
            return engine
        near = nearest(engine, ENGINES)
        known = ", ".join(ENGINES) + (f"; {near}" if near else "")
        raise PydanticCustomError("unknown_engine", "expected one of {known}", {"known": known})

    @field_validator("store")
    @classmethod
    def _file_or_url(cls, store: Path | str | None) -> Path | str | None:
        if store is None:
            return None
        # A secret that was made of a file ends with a newline.
        return str(store).strip() if is_url(store) else Path(store)

    @field_serializer("store", "otlp_endpoint")
    def _without_password(self, location: Path | str | None) -> str | None:
        return None if location is None else display_name(location)

    if not TYPE_CHECKING:

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                problems = field_problems(error, type(self), noun="setting")
                raise SettingsError(map(_explain, problems)) from None
            if problems := conflicts(self):
                raise SettingsError(problems)

    @property
    def with_tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.tls_certificate is not None

    @property
    def authenticates(self) -> bool:
        """Whether callers need a token or a certificate. Without, everybody may call everything."""
        return self.tokens is not None or self.tls_client_ca is not None

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine reaches the server; False for host names but localhost."""
        return is_loopback(self.host)

    @property
    def with_reflection(self) -> bool:
        """Whether gRPC reflection is on: `reflection`, by default on loopback only."""
        return self.on_loopback if self.reflection is None else self.reflection


def _explain(problem: FieldProblem) -> tuple[str, str]:
    """(setting, what is wrong with it)."""
    name = str(problem.path[0]) if problem.path else ""
    if problem.kind == "extra_forbidden":
        return name, problem.message.replace("setting", f"setting '{problem.field}'", 1)
    if problem.kind == "missing":
        return name, f"setting '{problem.field}' is missing"
    return name, f"setting '{problem.field}': {problem.message}"
