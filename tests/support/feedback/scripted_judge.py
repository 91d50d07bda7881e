"""A judge client without a server, FOR UNIT TESTS ONLY: prefers the longer response."""

from collections.abc import Iterable, Iterator

from judge_service.server_info import (
    ConstitutionSummary,
    FittedCalibration,
    ServerInfo,
    ServerLimits,
    ServerState,
)
from judge_service.types import (
    Comparison,
    JudgeOptions,
    Judgment,
    ModelIdentity,
    Order,
    PrincipleVote,
    Provenance,
    Read,
    Unjudged,
    UnjudgedReason,
    Usage,
    Verdict,
)

MODEL = ModelIdentity("scripted", "a" * 64, "b" * 64, "float32", "none")


class ScriptedJudge:
    """Switches: `sha256` of the constitution, `model`, `state`, `calibrations`, and `stop_with`
    after `stop_after`.

    `received` lists the ids of the comparisons in the order they were received.
    """

    def __init__(self) -> None:
        self.sha256 = "c" * 64
        self.model: ModelIdentity | None = MODEL
        self.judged_by = MODEL
        self.state = ServerState.SERVING
        self.calibrations: tuple[FittedCalibration, ...] = ()
        self.received: list[str] = []
        self.stop_after: int | None = None
        self.stop_with: BaseException | None = None

    def server_info(self) -> ServerInfo:
        return ServerInfo(
            state=self.state,
            version="0",
            model=self.model,
            template_version="test/1",
            limits=ServerLimits(4096, 1 << 20, 8, 16, 16, 512, 512),
            capabilities=(),
            constitutions=(ConstitutionSummary("hhh", "1.0.0", self.sha256),),
            calibrations=self.calibrations,
        )

    def stream(
        self, comparisons: Iterable[Comparison], constitution: str, options: JudgeOptions
    ) -> Iterator[tuple[str, Judgment | Unjudged]]:
        for done, comparison in enumerate(reversed(list(comparisons))):  # answers come out of order
            if done == self.stop_after and self.stop_with is not None:
                raise self.stop_with
            self.received.append(comparison.id)
            yield comparison.id, self.judge(comparison)

    def judge(self, comparison: Comparison) -> Judgment | Unjudged:
        a, b = comparison.response_a, comparison.response_b
        if not a.strip() or not b.strip():
            return Unjudged(UnjudgedReason.EMPTY_RESPONSE, "an empty response")
        prob = 0.5 if len(a) == len(b) else 0.9 if len(a) > len(b) else 0.1
        read = Read(Order.AB, -0.1, -2.3, prob, 0.98, 100, 80, "d" * 64)
        vote = PrincipleVote("be-helpful", "helpful", 1.0, prob, 0.2, (read, read))
        return Judgment(
            verdict=Verdict.TIE if prob == 0.5 else Verdict.A if prob > 0.5 else Verdict.B,
            prob_a=prob,
            trait_probs={"helpful": prob, "honest": 0.3},
            votes=(vote,),
            position_consistent=prob != 0.5,
            order_gap=0.2,
            provenance=Provenance(
                constitution_name="hhh",
                constitution_version="1.0.0",
                constitution_sha256=self.sha256,
                model=self.judged_by,
                template_version="test/1",
                principle_ids=("be-helpful",),
                orders=(Order.AB, Order.BA),
                seed=0,
            ),
            usage=Usage(200, 160, 0, 2),
            seconds=0.01,
        )
