"""The two gRPC services: each method hands its request to the RequestHandler."""

from __future__ import annotations

import asyncio
from typing import Any

from constitution.errors import ConstitutionError
from constitution.schema import Constitution
from judge_service.errors import InvalidRequest, NotFound
from judge_service.server.handlers import RequestHandler
from judge_service.server.registry import UNKNOWN
from judge_service.server.stream import JudgmentStream
from judge_service.server_info import ConstitutionSummary
from judge_service.v1 import judge_pb2 as pb
from judge_service.v1 import judge_pb2_grpc as pb_grpc
from judge_service.wire.constitutions import (
    constitution_to_proto,
    diagnostic_to_proto,
    summary_to_proto,
)
from judge_service.wire.judgments import server_info_to_proto

_MAX_SOURCE = 1024


class JudgeServicer(pb_grpc.JudgeServiceServicer):
    """The methods of JudgeService; CallGuard turns the ServiceErrors they raise into statuses."""

    def __init__(self, handler: RequestHandler) -> None:
        self._handler = handler

    async def ComparePair(
        self, request: pb.ComparePairRequest, context: Any
    ) -> pb.ComparePairResponse:
        """A pair's judgment; a text that is too long is INVALID_ARGUMENT."""
        return pb.ComparePairResponse(judgment=await self._handler.compare_one(request))

    async def RankCandidates(
        self, request: pb.RankCandidatesRequest, context: Any
    ) -> pb.RankCandidatesResponse:
        """Two or more candidates, best first."""
        return pb.RankCandidatesResponse(ranking=await self._handler.rank(request))

    async def ScoreCandidate(
        self, request: pb.ScoreCandidateRequest, context: Any
    ) -> pb.ScoreCandidateResponse:
        """A response's expected rating."""
        return pb.ScoreCandidateResponse(score=await self._handler.score(request))

    async def CritiqueCandidate(
        self, request: pb.CritiqueCandidateRequest, context: Any
    ) -> pb.CritiqueCandidateResponse:
        """A critique of a response by one principle."""
        return pb.CritiqueCandidateResponse(critique=await self._handler.critique(request))

    async def ReviseCandidate(
        self, request: pb.ReviseCandidateRequest, context: Any
    ) -> pb.ReviseCandidateResponse:
        """A response rewritten by one principle and a critique."""
        return pb.ReviseCandidateResponse(revision=await self._handler.revise(request))

    async def StreamJudgments(self, requests: Any, context: Any) -> None:
        """Judgments of a stream of pairs (stream.py), each with its own error."""
        settings = self._handler.settings
        stream = JudgmentStream(
            context,
            self._handler.compare,
            settings.max_stream_in_flight,
            self._handler.metrics,
            idle_seconds=settings.stream_idle_seconds,
        )
        await stream.run(self._handler.draining)

    async def GetServerInfo(
        self, request: pb.GetServerInfoRequest, context: Any
    ) -> pb.GetServerInfoResponse:
        """State, model, limits and constitutions, also while the model loads."""
        return server_info_to_proto(self._handler.info())


class ConstitutionServicer(pb_grpc.ConstitutionServiceServicer):
    """The methods of ConstitutionService; all but PreviewPrompt work while the model loads."""

    def __init__(self, handler: RequestHandler) -> None:
        self._handler = handler

    async def ListConstitutions(
        self, request: pb.ListConstitutionsRequest, context: Any
    ) -> pb.ListConstitutionsResponse:
        """Summaries of the server's constitutions, the default first."""
        summaries = map(summary_to_proto, self._handler.constitutions.summaries)
        return pb.ListConstitutionsResponse(constitutions=summaries)

    async def GetConstitution(
        self, request: pb.GetConstitutionRequest, context: Any
    ) -> pb.GetConstitutionResponse:
        """A constitution in full. An unknown name or digest is NOT_FOUND here."""
        try:
            constitution = await self._handler.constitution(request.constitution)
        except InvalidRequest as unknown:
            if unknown.reason != UNKNOWN:
                raise
            raise NotFound(str(unknown), reason=unknown.reason, fields=unknown.fields) from None
        return pb.GetConstitutionResponse(
            constitution=constitution_to_proto(constitution),
            sha256=constitution.digest,
        )

    async def ValidateConstitution(
        self, request: pb.ValidateConstitutionRequest, context: Any
    ) -> pb.ValidateConstitutionResponse:
        """The problems of a YAML text, or the summary of a valid one; nothing is kept."""
        if len(request.source) > _MAX_SOURCE:  # every diagnostic carries it
            raise InvalidRequest("source", f"a name of up to {_MAX_SOURCE} characters")
        try:
            constitution = await asyncio.to_thread(
                Constitution.from_yaml, request.yaml, request.source or "constitution"
            )
        except ConstitutionError as error:
            problems = map(diagnostic_to_proto, error.diagnostics)
            return pb.ValidateConstitutionResponse(diagnostics=problems)
        summary = ConstitutionSummary(constitution.name, constitution.version, constitution.digest)
        return pb.ValidateConstitutionResponse(constitution=summary_to_proto(summary))

    async def PreviewPrompt(
        self, request: pb.PreviewPromptRequest, context: Any
    ) -> pb.PreviewPromptResponse:
        """The prompts that ComparePair would read."""
        return pb.PreviewPromptResponse(prompts=await self._handler.preview(request))
