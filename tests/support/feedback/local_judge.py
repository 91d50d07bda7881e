"""A judge client without a socket, FOR UNIT TESTS ONLY: the real judge on a FakeEngine."""

import asyncio
from collections.abc import Iterable, Iterator

from constitution.schema import Constitution
from judge_service.judge.judge import Judge
from judge_service.judge.prompts import TEMPLATE_VERSION
from judge_service.server_info import ConstitutionSummary, ServerInfo, ServerLimits, ServerState
from judge_service.types import Comparison, JudgeOptions, Judgment, Unjudged
from tests.support.fakes import FakeEngine


class LocalJudge:
    """Serves `constitutions`, and others if `inline`. `engine.prompts` records the reads."""

    def __init__(
        self, *constitutions: Constitution, engine: FakeEngine | None = None, inline: bool = True
    ):
        self.engine = engine or FakeEngine()
        self.constitutions = {c.name: c for c in constitutions}
        self.inline = inline
        self._judge = Judge(self.engine)

    def server_info(self) -> ServerInfo:
        return ServerInfo(
            state=ServerState.SERVING,
            version="0",
            model=self.engine.identity,
            template_version=TEMPLATE_VERSION,
            limits=ServerLimits(4096, 1 << 20, 8, 16, 16, 512, 512),
            capabilities=(),
            constitutions=tuple(
                ConstitutionSummary(c.name, c.version, c.digest)
                for c in self.constitutions.values()
            ),
            inline_constitutions=self.inline,
        )

    def stream(
        self,
        comparisons: Iterable[Comparison],
        constitution: str | Constitution,
        options: JudgeOptions,
    ) -> Iterator[tuple[str, Judgment | Unjudged]]:
        by = self.constitutions[constitution] if isinstance(constitution, str) else constitution

        async def judge_all(pairs: list[Comparison]) -> list[Judgment | Unjudged]:
            return [await self._judge.compare(pair, by, options) for pair in pairs]

        pairs = list(comparisons)
        answers = asyncio.run(judge_all(pairs))
        yield from zip((pair.id for pair in pairs), answers, strict=True)
