"""What an operator can set of a judge server. Each default is the vetted setting."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_serializer,
    field_validator,
)

from constitution import DEFAULT_CONSTITUTION
from constitution.schema import nearest
from hardware.dtypes import Dtype
from judge_service.errors import ServerStartError
from judge_service.store.base import display_name, is_url


class SettingsError(ServerStartError):
    """Settings that cannot be used: `problems` holds (the setting's name, what is wrong) pairs."""

    def __init__(self, problems: Iterable[tuple[str, str]]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(text for _, text in self.problems))


class ServerSettings(BaseModel):
    """Raises SettingsError, naming each wrong setting; for an unknown one the nearest known.

    Only what is passed counts: the environment and files are read in configuring.py.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(
        min_length=1,
        description="Judge model: a folder or a hub id; with engine openai its name at the server.",
    )
    engine: Literal["vllm", "openai"] = Field(
        "vllm",
        description="vllm: in this server. openai: behind the OpenAI-compatible server at "
        "`openai_url`, as `vllm serve`.",
    )
    openai_url: str | None = Field(
        None,
        pattern=r"^https?://[^/?#@\s]+(/[^?#\s]*)?$",
        description="Base URL of the model server, as http://127.0.0.1:8000/v1. A key for it "
        "stands in the environment only, as RLAIF_OPENAI_API_KEY.",
    )
    openai_tokenizer: str | None = Field(
        None,
        min_length=1,
        description="Folder or hub id with the tokenizer of the model at `openai_url`. None: "
        "`model` is one.",
    )
    constitutions: tuple[str, ...] = Field(
        (DEFAULT_CONSTITUTION,),
        min_length=1,
        description="Shipped names or YAML files to judge by; the first is the default.",
    )
    allow_inline_constitutions: bool = Field(
        False,
        description="Take constitutions that come with a request, as YAML text: "
        "whoever may ask then decides what the judge is told.",
    )
    calibrations: tuple[str, ...] = Field(
        (),
        description="Calibration files; each applies to the model and constitution it was "
        "fitted for.",
    )
    host: str = Field(
        "127.0.0.1",
        description="Address to listen on. Anything but loopback needs `tls_certificate` and one "
        "of `tokens` and `tls_client_ca`, or `insecure`.",
    )
    port: int = Field(50051, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    insecure: bool = Field(
        False, description="Listen beyond this machine although anybody there may then ask."
    )
    tls_certificate: Path | None = Field(
        None,
        description="PEM file with the server's certificate, then those that signed it. None: "
        "plain text. Read again on SIGHUP, as the other files of keys and tokens are.",
    )
    tls_key: Path | None = Field(
        None, description="PEM file with the certificate's private key; the two go together."
    )
    tls_client_ca: Path | None = Field(
        None,
        description="PEM file with the authorities whose certificates callers must show (mTLS). "
        "None: callers need none.",
    )
    tokens: Path | None = Field(
        None,
        description="YAML file with the digests of bearer tokens, what each may do and how much. "
        "Read again when it changes; missing or empty it admits nobody. None: whoever reaches the "
        "server may do everything.",
    )
    reflection: bool | None = Field(
        None, description="gRPC server reflection. None: only on loopback."
    )
    tensor_parallel_size: int = Field(
        1, ge=1, description="GPUs over which vLLM splits the model; it must divide its heads."
    )
    kv_cache_gib: float | None = Field(
        None, gt=0, description="Memory of the engine's KV cache, GiB. None: the engine's default."
    )
    dtype: Dtype = Field(
        "auto",
        description="Number format of the weights and the computing: bfloat16, float16, float32. "
        "auto: bfloat16 where the hardware multiplies in it, else float32, which takes twice the "
        "memory.",
    )
    step_tokens: int | None = Field(
        None,
        ge=64,
        description="Prompt tokens that one step of the engine computes; between steps, other "
        "callers get their turn. None: on a CPU what takes about two seconds, on a GPU vLLM's "
        "default.",
    )
    max_context_tokens: int | None = Field(
        None, ge=64, description="Longest judge prompt, tokens. None: the engine's default."
    )
    store: Path | str | None = Field(
        None,
        repr=False,  # a password may be in it
        description="What keeps the judge's reads, so that nothing is computed twice: a file, "
        "which servers on one machine may share, or postgresql+psycopg://user@host/database, for "
        "servers on several. None: a temporary file, gone with the server.",
    )
    max_concurrent_rpcs: int = Field(
        256,
        ge=1,
        description="Calls at the same time, a stream counting as one; those above are refused.",
    )
    max_message_bytes: int = Field(
        4 * 2**20, ge=1024, description="Largest request or response, bytes (gRPC's own default)."
    )
    max_stream_in_flight: int = Field(
        64, ge=1, le=4096, description="Items of one stream that are taken and not yet answered."
    )
    max_candidates: int = Field(
        32, ge=2, description="Candidates of one ranking: 32 make up to 112 pairs."
    )
    max_principles: int = Field(
        64, ge=1, description="Principles of one constitution: each costs two reads a comparison."
    )
    max_rationale_tokens: int = Field(
        512, ge=0, description="Tokens of one rationale; 0 allows none. Each read writes its own."
    )
    max_write_tokens: int = Field(1024, ge=1, description="Tokens of one critique or revision.")
    grace_seconds: float = Field(
        10.0, ge=0, description="How long SIGTERM lets calls finish that have begun, seconds."
    )
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port for Prometheus to scrape over plain HTTP, at /metrics; 0 takes a free "
        "one. None: no metrics.",
    )
    metrics_host: str = Field(
        "127.0.0.1",
        description="Address for the metrics. They carry counts, and the names of callers and "
        "constitutions; no text.",
    )
    otlp_endpoint: str | None = Field(
        None,
        pattern=r"^https?://",
        description="OpenTelemetry collector that takes traces over OTLP, as "
        "http://127.0.0.1:4317. None: no traces.",
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="Lines for people, or one JSON object a line."
    )
    exit_on_stdin_close: bool = Field(
        False,
        description="Stop when standard input ends: a server started over a pipe then never "
        "outlives the process that started it, however that one dies.",
    )

    @field_validator("store")
    @classmethod
    def _file_or_url(cls, store: Path | str | None) -> Path | str | None:
        if store is None:
            return None
        # A secret that was made of a file ends with a newline.
        return str(store).strip() if is_url(store) else Path(store)

    @field_serializer("store")
    def _without_password(self, store: Path | str | None) -> str | None:
        return None if store is None else display_name(store)

    if not TYPE_CHECKING:

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                known = list(type(self).model_fields)
                raise SettingsError(_explain(p, known) for p in error.errors()) from None
            if problems := _together(self):
                raise SettingsError(problems)

    @property
    def with_tls(self) -> bool:
        return self.tls_certificate is not None

    @property
    def knows_callers(self) -> bool:
        return self.tokens is not None or self.tls_client_ca is not None

    @property
    def on_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False

    @property
    def with_reflection(self) -> bool:
        return self.on_loopback if self.reflection is None else self.reflection


def _together(settings: ServerSettings) -> list[tuple[str, str]]:
    """What is wrong with settings that are right one by one."""
    problems = []
    if settings.tls_certificate is not None and settings.tls_key is None:
        told = "setting 'tls_certificate' needs its private key: set `tls_key` too"
        problems.append(("tls_certificate", told))
    if settings.tls_key is not None and settings.tls_certificate is None:
        told = "setting 'tls_key' is of no use alone: set `tls_certificate` too"
        problems.append(("tls_key", told))
    if settings.tls_client_ca is not None and not settings.with_tls:
        told = "setting 'tls_client_ca' needs TLS: set `tls_certificate` and `tls_key` too"
        problems.append(("tls_client_ca", told))
    problems += _engine_together(settings)
    guarded = settings.with_tls and settings.knows_callers
    if not settings.on_loopback and not guarded and not settings.insecure:
        lacking = [] if settings.with_tls else ["TLS (`tls_certificate`, `tls_key`)"]
        lacking += [] if settings.knows_callers else ["callers (`tokens` or `tls_client_ca`)"]
        told = (
            f"host {settings.host} is not loopback and the server has no {' and no '.join(lacking)}"
            ": set them, listen on 127.0.0.1, or accept that anybody who reaches it may use it and "
            "read along, with --insecure"
        )
        problems.append(("host", told))
    return problems


def _engine_together(settings: ServerSettings) -> list[tuple[str, str]]:
    """Each engine has settings of its own; another engine's would do nothing."""
    of_openai = {"openai_url", "openai_tokenizer"}
    of_vllm = {"dtype", "kv_cache_gib", "step_tokens", "tensor_parallel_size"}
    if settings.engine == "vllm":
        others, remedy = of_openai, "set engine to openai, or leave it out"
    else:
        others, remedy = of_vllm, "set it where the model server is started, and leave it out here"
    problems = []
    for name in sorted(others):
        if getattr(settings, name) != ServerSettings.model_fields[name].default:
            told = f"setting '{name}' does nothing with engine {settings.engine}: {remedy}"
            problems.append((name, told))
    if settings.engine == "openai" and settings.openai_url is None:
        told = "engine openai needs the URL of a model server: set `openai_url`"
        problems.append(("engine", told))
    return problems


def _explain(problem: Any, known: list[str]) -> tuple[str, str]:
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        near = nearest(name, known) or "known: " + ", ".join(known)
        return name, f"unknown setting '{name}'; {near}"
    if problem["type"] == "missing":
        return name, f"setting '{name}' is missing"
    return str(
        problem["loc"][0]
    ), f"setting '{name}': {problem['msg']} (found {problem['input']!r})"
