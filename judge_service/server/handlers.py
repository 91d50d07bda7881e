"""Handles each request: validates it, finds its constitution, and runs the judge.

A prompt too long for the judge is InvalidRequest, naming the longest part, in calls about a single
comparison or response; in a ranking or a stream that pair is Unjudged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from constitution.schema import Constitution
from judge_service.engine import Engine
from judge_service.errors import InvalidRequest, NotAllowed, Unavailable
from judge_service.judge.calibration import Calibrations
from judge_service.judge.judge import Judge
from judge_service.judge.label_probs import PROTOCOLS
from judge_service.judge.prompts import TEMPLATE_VERSION
from judge_service.judge.ranking import design_pairs
from judge_service.judge.template import TemplateError
from judge_service.observability.metrics import NO_METRICS, NoMetrics
from judge_service.observability.tracing import span
from judge_service.rpc import PACKAGE, RPCS
from judge_service.server.inline_constitutions import FIELD, InlineConstitutions
from judge_service.server.registry import ConstitutionRegistry
from judge_service.server_info import FittedCalibration, ServerInfo, ServerLimits, ServerState
from judge_service.settings import ServerSettings
from judge_service.store.base import StoreUnavailable
from judge_service.types import (
    Conversation,
    JudgeOptions,
    Judgment,
    Score,
    Unjudged,
    UnjudgedReason,
    Writing,
    WritingOptions,
)
from judge_service.v1 import judge_pb2 as pb
from judge_service.wire.candidates import preview_to_proto, score_to_proto, writing_to_proto
from judge_service.wire.judgments import (
    judgment_to_proto,
    ranked_pair_to_proto,
    ranking_to_proto,
)
from judge_service.wire.requests import (
    check_principle,
    check_request_id,
    read_candidates,
    read_comparison,
    read_conversation,
    read_critique,
    read_options,
    read_writing_options,
)
from judge_service.wire.sizes import judgment_bytes, preview_bytes, require_fit

SERVICES = tuple(pb.DESCRIPTOR.services_by_name.values())
_CAPABILITIES = tuple(f"{rpc.service}.{rpc.name}".removeprefix(f"{PACKAGE}.") for rpc in RPCS)

_CandidateRequest = (
    pb.ScoreCandidateRequest | pb.CritiqueCandidateRequest | pb.ReviseCandidateRequest
)


class RequestHandler:
    """Answers the requests of both servicers; after validate_only the answer is None.

    Every method raises InvalidRequest for an invalid field, NotAllowed for what this server is not
    set up for, and Unavailable while the engine or the store is down. draining: set when the server
    stops. constitutions: those of the server, which lifecycle/reload.py reads again.

    Raises ConstitutionError, ServerStartError and CalibrationError for files that are invalid.
    """

    def __init__(
        self, settings: ServerSettings, engine: Engine, metrics: NoMetrics = NO_METRICS
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.constitutions = ConstitutionRegistry(settings.constitutions, settings.max_principles)
        self.draining = asyncio.Event()
        self._inline = InlineConstitutions(
            settings.allow_inline_constitutions, settings.max_principles
        )
        self._calibrations = Calibrations.load(map(Path, settings.calibrations))
        self._engine = engine
        self._judge: Judge | None = None

    def open(self) -> None:
        """Accept work from now on: the engine has started."""
        self._judge = Judge(self._engine, self._calibrations)

    @property
    def state(self) -> ServerState:
        """LOADING until `open`, and again while an engine that may recover is out of reach."""
        if self.draining.is_set():
            return ServerState.DRAINING
        if self._judge is None:
            return ServerState.LOADING
        if self._engine.alive:
            return ServerState.SERVING
        return ServerState.LOADING if self._engine.recovers else ServerState.FAILED

    @property
    def judge(self) -> Judge:
        """The judge. Raises Unavailable while the engine loads and after it has died."""
        if self._judge is None:
            raise Unavailable("the judge is still loading its model", reason="LOADING")
        if not self._engine.alive:
            problem = "the judge's engine died or is out of reach; retry later, or restart it"
            raise Unavailable(problem, reason="ENGINE_DIED")
        return self._judge

    async def constitution(self, ref: pb.ConstitutionRef) -> Constitution:
        """The constitution that a request refers to, by name, digest or text.

        Raises InvalidRequest, and NotAllowed for an inline one where the server takes none.
        """
        if not ref.yaml:
            return self.constitutions.find(ref.name, ref.sha256)
        if ref.name or ref.sha256:
            raise InvalidRequest(FIELD, "given beside a name or a digest; send one or the other")
        return await self._inline.find(ref.yaml)

    async def compare(self, request: pb.ComparePairRequest) -> pb.Judgment | None:
        """The pair's judgment, or an abstention, also for a text that is too long."""
        comparison = read_comparison(request)
        options = self._options(request.options)
        constitution = await self.constitution(request.constitution)
        self._require_fit(1, constitution, options)
        if request.validate_only:
            return None
        with (
            _translate_judge_errors(),
            span("judge.compare", constitution_sha256=constitution.digest) as step,
        ):
            judgment = await self.judge.compare(comparison, constitution, options)
            step.set(reads=judgment.usage.reads, stored_reads=judgment.usage.stored_reads)
        self._count(judgment)
        return judgment_to_proto(judgment)

    async def compare_one(self, request: pb.ComparePairRequest) -> pb.Judgment | None:
        """`compare` for a unary call, whose caller can shorten a text that is too long."""
        judgment = await self.compare(request)
        if judgment and judgment.abstention.reason == pb.ABSTENTION_REASON_TOO_LONG:
            texts = {"response_a": request.response_a, "response_b": request.response_b}
            raise _too_long(judgment.abstention.detail, request.conversation, texts)
        return judgment

    async def rank(self, request: pb.RankCandidatesRequest) -> pb.Ranking | None:
        """The ranking; pairs with a candidate that is too long are Unjudged."""
        candidates = read_candidates(request, self.settings.max_candidates)
        conversation = read_conversation(request.conversation)
        options = self._options(request.options)
        constitution = await self.constitution(request.constitution)
        self._require_fit(len(design_pairs(len(candidates), options.seed)), constitution, options)
        if request.validate_only:
            return None
        with _translate_judge_errors():
            ranking = await self.judge.rank(conversation, candidates, constitution, options)
        answer = ranking_to_proto(ranking)
        for pair in ranking.pairs:
            self._count(pair[2])
            answer.pairs.append(ranked_pair_to_proto(*pair))
            await asyncio.sleep(0)  # thousands of reads are not one long step
        return answer

    async def score(self, request: pb.ScoreCandidateRequest) -> pb.Score | None:
        """The score, or an abstention; a response that is too long is an InvalidRequest."""
        conversation = self._conversation(request)
        options = self._options(request.options)
        constitution = await self.constitution(request.constitution)
        if request.validate_only:
            return None
        with _translate_judge_errors():
            score = await self.judge.score(conversation, request.response, constitution, options)
        self._count(score)
        _refuse_too_long(score, request.conversation, {"response": request.response})
        return score_to_proto(score)

    async def critique(self, request: pb.CritiqueCandidateRequest) -> pb.Writing | None:
        """The critique, or an abstention; also raises InvalidRequest for an unknown principle."""
        conversation = self._conversation(request)
        constitution, options = await self._constitution_and_writing_options(request)
        if request.validate_only:
            return None
        with _translate_judge_errors():
            writing = await self.judge.critique(
                conversation, request.response, constitution, options
            )
        self._count(writing)
        _refuse_too_long(writing, request.conversation, {"response": request.response})
        return writing_to_proto(writing)

    async def revise(self, request: pb.ReviseCandidateRequest) -> pb.Writing | None:
        """The revision, or an abstention; also raises InvalidRequest for an unknown principle."""
        conversation = self._conversation(request)
        critique = read_critique(request)
        constitution, options = await self._constitution_and_writing_options(request)
        if request.validate_only:
            return None
        with _translate_judge_errors():
            writing = await self.judge.revise(
                conversation, request.response, critique, constitution, options
            )
        self._count(writing)
        texts = {"response": request.response, "critique": critique}
        _refuse_too_long(writing, request.conversation, texts)
        return writing_to_proto(writing)

    async def preview(self, request: pb.PreviewPromptRequest) -> list[pb.PromptPreview]:
        """The prompts that `compare` would read; [] after validate_only. Nothing is computed."""
        comparison = read_comparison(request)
        options = self._options(request.options)
        constitution = await self.constitution(request.constitution)
        size = preview_bytes(request.ByteSize(), constitution, options)
        remedy = "shorten the texts, or sample principles (sample_size)"
        require_fit("options.sample_size", size, self.settings.max_message_bytes, remedy)
        if request.validate_only:
            return []
        with _translate_judge_errors():
            previews = await self.judge.preview(comparison, constitution, options)
        if isinstance(previews, Unjudged):
            texts = {"response_a": request.response_a, "response_b": request.response_b}
            raise _too_long(previews.detail, request.conversation, texts)
        return [preview_to_proto(preview) for preview in previews]

    def info(self) -> ServerInfo:
        """The answer to GetServerInfo, at any time; model and context length only once loaded."""
        loaded = self._judge is not None
        settings = self.settings
        return ServerInfo(
            state=self.state,
            version=_version(),
            model=self._engine.identity if loaded else None,
            template_version=TEMPLATE_VERSION,
            limits=ServerLimits(
                max_context_tokens=self._engine.max_context_tokens if loaded else 0,
                max_message_bytes=settings.max_message_bytes,
                max_candidates=settings.max_candidates,
                max_stream_in_flight=settings.max_stream_in_flight,
                max_concurrent_rpcs=settings.max_concurrent_rpcs,
                max_rationale_tokens=settings.max_rationale_tokens,
                max_write_tokens=settings.max_write_tokens,
            ),
            capabilities=_CAPABILITIES,
            constitutions=self.constitutions.summaries,
            protocols=tuple(PROTOCOLS),
            inline_constitutions=settings.allow_inline_constitutions,
            calibrations=tuple(self._fitted()) if loaded else (),
        )

    def _fitted(self) -> Iterator[FittedCalibration]:
        """The calibrations that were fitted for the server's constitutions and this model."""
        model = self._engine.identity
        for digest in (summary.sha256 for summary in self.constitutions.summaries):
            for protocol in PROTOCOLS:
                fitted = self._calibrations.find(digest, model, TEMPLATE_VERSION, protocol)
                if fitted is not None:
                    yield FittedCalibration(digest, protocol, fitted.sha256)

    def _conversation(self, request: _CandidateRequest) -> Conversation:
        check_request_id(request.request_id)
        return read_conversation(request.conversation)

    def _require_fit(self, pairs: int, constitution: Constitution, options: JudgeOptions) -> None:
        """Refuse what would have too large an answer, before it is computed."""
        size = pairs * judgment_bytes(constitution, options)
        field = "options.max_rationale_tokens" if options.max_rationale_tokens else "candidates"
        remedy = "send fewer candidates, sample principles (sample_size), or ask for less rationale"
        require_fit(field, size, self.settings.max_message_bytes, remedy)

    def _options(self, options: pb.JudgeOptions) -> JudgeOptions:
        most = self.settings.max_rationale_tokens
        return read_options(options, max_rationale_tokens=most, protocols=PROTOCOLS)

    async def _constitution_and_writing_options(
        self, request: pb.CritiqueCandidateRequest | pb.ReviseCandidateRequest
    ) -> tuple[Constitution, WritingOptions]:
        most = self.settings.max_write_tokens
        options = read_writing_options(request.options, max_tokens=most)
        constitution = await self.constitution(request.constitution)
        if options.principle_id:
            check_principle(constitution, options.principle_id)
        return constitution, options

    def _count(self, answer: Judgment | Score | Writing | Unjudged) -> None:
        """Count an answer. Raises Unavailable for one that was lost because the engine died."""
        self.metrics.judged(answer)
        if isinstance(answer, Unjudged) and answer.reason is UnjudgedReason.ENGINE_FAILED:
            _ = self.judge


@contextmanager
def _translate_judge_errors() -> Iterator[None]:
    """Map judge failures to RPC errors.

    NotAllowed when the model cannot fit our prompts, Unavailable when the store is down.
    """
    try:
        yield
    except (TemplateError, StoreUnavailable, ExceptionGroup) as error:
        first: Exception = error
        while isinstance(first, ExceptionGroup):
            first = first.exceptions[0]
        if isinstance(first, StoreUnavailable):  # its text names the database: for the log alone
            problem = "the store of reads does not answer or cannot write; nothing was lost, retry"
            raise Unavailable(problem, reason="STORE_UNAVAILABLE") from None
        if not isinstance(first, TemplateError):
            raise
        raise NotAllowed(
            f"this judge model does not support the call: {first}", reason="MODEL_UNSUITED"
        ) from None


def _refuse_too_long(
    answer: Score | Writing | Unjudged, conversation: Sequence[pb.Message], texts: dict[str, str]
) -> None:
    if isinstance(answer, Unjudged) and answer.reason is UnjudgedReason.TOO_LONG:
        raise _too_long(answer.detail, conversation, texts)


def _too_long(
    detail: str, conversation: Sequence[pb.Message], texts: dict[str, str]
) -> InvalidRequest:
    """An error naming the longest part of the request, which shortening helps most."""
    lengths = {"conversation": sum(len(message.content) for message in conversation)}
    lengths |= {field: len(text) for field, text in texts.items()}
    longest = max(lengths, key=lambda field: lengths[field])
    return InvalidRequest(longest, detail, reason="TOO_LONG")


def _version() -> str:
    try:
        return metadata.version("rlaif")
    except metadata.PackageNotFoundError:  # a checkout that was never installed
        return "unknown"
