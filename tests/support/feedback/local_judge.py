"""A judge client without a socket, FOR UNIT TESTS ONLY: the real judge over a FakeEngine."""

import asyncio
from collections.abc import Iterable, Iterator

from constitution.schema import Constitution
from judge_service.judge.judge import Judge
from judge_service.judge.prompts import TEMPLATE_VERSION
from judge_service.server_info import ConstitutionSummary, ServerInfo, ServerLimits, ServerState
from judge_service.types import Comparison, JudgeOptions, Judgment, Unjudged
from tests.support.fakes import FakeEngine


class LocalJudge:
    """`engine.prompts` counts the reads; `laws` are those it serves, `inline` whether it takes
    others."""

    def __init__(self, *laws: Constitution, engine: FakeEngine | None = None, inline: bool = True):
        self.engine = engine or FakeEngine()
        self.laws = {law.name: law for law in laws}
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
                ConstitutionSummary(law.name, law.version, law.digest) for law in self.laws.values()
            ),
            inline_constitutions=self.inline,
        )

    def stream(
        self,
        comparisons: Iterable[Comparison],
        constitution: str | Constitution,
        options: JudgeOptions,
    ) -> Iterator[tuple[str, Judgment | Unjudged]]:
        law = self.laws[constitution] if isinstance(constitution, str) else constitution

        async def judge_all(pairs: list[Comparison]) -> list[Judgment | Unjudged]:
            return [await self._judge.compare(pair, law, options) for pair in pairs]

        pairs = list(comparisons)
        found = asyncio.run(judge_all(pairs))
        yield from zip((pair.id for pair in pairs), found, strict=True)
