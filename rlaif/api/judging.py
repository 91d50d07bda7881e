"""Evaluation of policies by judges, and the judge that a function is given.

    judge     a model (short name, folder or hub id; or planted:FILE, a simulated judge), served
              for the length of the call
    server    "HOST:PORT" of a running `rlaif serve`, or an open JudgeClient with token and TLS

One of the two is given; `evaluate` takes several of either or of both, one after another. The
token and TLS files of a server at an address come from the environment
(rlaif/feedback/connection.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from constitution import DEFAULT_CONSTITUTION, Constitution
from constitution.errors import UserError, expected_one_of
from judge_service.planted.file import PlantedJudge, planted_file
from judge_service.types import JudgeOptions
from rlaif.api.inputs import HumanVerdictsLike, Pathlike, SamplesLike, samples_of, verdicts_of
from rlaif.api.problems import Problems, checked
from rlaif.data.datasets import labels_at
from rlaif.data.files import as_path
from rlaif.data.records import RecordError, Sample
from rlaif.evaluation.judges.column import Labelers
from rlaif.evaluation.rules.facts import asks_fact
from rlaif.feedback.client import FIND_TIMEOUT_S
from rlaif.feedback.connection import ADDRESS
from rlaif.models import catalog
from rlaif.training.preflight import require_folder

if TYPE_CHECKING:
    from rlaif.evaluation.comparison import Compare, EvaluatorModel
    from rlaif.evaluation.judges.worth import JudgeWorth
    from rlaif.evaluation.policies import EvaluationResult
    from rlaif.feedback.labeler import LabelingClient

ConstitutionLike = str | os.PathLike[str] | Constitution
"""A name that the server knows ("": its default), a YAML file, or a Constitution; the latter needs
a server that accepts inline constitutions, as one started by `judge=` does."""


START = "start"
"""What an evaluation calls the policy that the others are compared with."""


class JudgeArgumentError(UserError):
    """A judge that cannot be used as it is named; the message says what to give."""


@dataclass(frozen=True, slots=True)
class JudgeConnection:
    """A judge to connect to. wait: seconds that a running server may take to be ready."""

    model: str
    server: str | LabelingClient
    constitution: str | Constitution
    wait: float = FIND_TIMEOUT_S

    def connected(self, log: Path) -> AbstractContextManager[LabelingClient]:
        """A client; log: where the output of a server goes that is started for the block."""
        from rlaif.feedback.client import judge_client

        return self._connected(judge_client, log)

    def connected_when_needed(self, log: Path) -> AbstractContextManager[LabelingClient]:
        """As `connected`, where answers are kept in the log's folder: a server that would have
        nothing to judge is not started."""
        from rlaif.feedback.client import judge_when_needed

        return self._connected(judge_when_needed, log)

    def _connected(
        self, connect: Callable[..., AbstractContextManager[LabelingClient]], log: Path
    ) -> AbstractContextManager[LabelingClient]:
        if not isinstance(self.server, str):
            return nullcontext(self.server)
        served = self.constitution if isinstance(self.constitution, str) else ""
        return connect(self.model, served, log, self.server, wait=self.wait)

    def evaluator(self, log: Path) -> EvaluatorModel:
        """What an evaluation will record of it: a running server is asked, none is started."""
        from rlaif.feedback.labeler import identify
        from rlaif.feedback.labelers import evaluator_of

        if self.model:
            by = self.constitution or DEFAULT_CONSTITUTION
            return evaluator_of(
                self.model, by if isinstance(by, Constitution) else Constitution.load(by)
            )
        with self.connected(log) as client:
            return identify(client.server_info(), self.constitution).evaluator


def judge_of(
    judge: Pathlike,
    server: str | LabelingClient,
    constitution: ConstitutionLike,
    wait: float | None = None,
) -> JudgeConnection:
    """The judge that was named, checked as far as can be without a connection.

    Raises JudgeArgumentError, ModelError, PlantedError or ConstitutionError.
    """
    if not isinstance(judge, str | os.PathLike):
        raise JudgeArgumentError(
            f"invalid judge: {judge!r}; give a model's short name, folder or hub id, or an open "
            "client as server=..."
        )
    if server is None or (not isinstance(server, str) and not hasattr(server, "stream")):
        raise JudgeArgumentError(
            f'invalid server: {server!r}; give "HOST:PORT" of a running server, or an open '
            "JudgeClient"
        )
    if wait is not None and (not isinstance(wait, int | float) or not wait >= 0):
        raise JudgeArgumentError(f"invalid wait: {wait!r}; give seconds, 0 or more")
    if not isinstance(constitution, str | os.PathLike | Constitution):
        raise JudgeArgumentError(
            f"invalid constitution: {constitution!r}; give a name, a YAML file or a Constitution"
        )
    model = os.fspath(judge)
    if bool(model) == bool(server):
        given = f"judge={model!r} and server={server!r}" if model else "none"
        raise JudgeArgumentError(
            f"expected one judge: {given}; give judge=MODEL to start a server for this call, or "
            'server="HOST:PORT" of one that runs'
        )
    if planted_file(model) is not None:
        PlantedJudge.load(model)
    elif model:
        catalog.resolve(model)
    by = constitution if isinstance(constitution, Constitution) else os.fspath(constitution)
    # A name may be known to a running server alone; a file, and what we serve, is ours to check.
    if isinstance(by, str) and by and (model or "/" in by or by.endswith((".yaml", ".yml"))):
        Constitution.load(by)
    return JudgeConnection(model, server, by, FIND_TIMEOUT_S if wait is None else wait)


def evaluate(
    responses: Mapping[str, SamplesLike],
    *,
    start: SamplesLike,
    out: Pathlike = "evaluation",
    judge: Pathlike | Sequence[Pathlike] = "",
    server: str | LabelingClient | Sequence[str | LabelingClient] = "",
    constitution: ConstitutionLike = "",
    wait: float | None = None,
    sample_principles: int | None = None,
    seed: int | None = None,
    options: JudgeOptions | None = None,
    labels: Pathlike | Sequence[Pathlike] = (),
    worth: Pathlike | Sequence[Pathlike] = (),
    until: str | float | None = None,
    human: HumanVerdictsLike = (),
    round_robin: bool = False,
    facts: Mapping[str, SamplesLike] | None = None,
) -> EvaluationResult:
    """Compare policies with their start: win rates with 95 % intervals, judged in both orders.

    responses: each policy's samples on held-out prompts, by its name. start: the starting policy's
    on the same prompts. judge, server: one or several, which judge one after another and have a
    column each (`result.judges`, `result.agreement`); the first one's rates are the policies' own,
    and "HOST:PORT" among the judges is a server in its place. labels: files or folders of labels
    that the policies were trained on, whose receipts say whether a judge labeled them, too. worth:
    JSON files with how often judges are right on gold (rlaif/evaluation/judges/worth.py). until:
    "settled", or how wide a win rate's interval may be: judging stops there, and intervals are
    anytime ones. human: verdicts of people on some of the pairs (HumanVerdict), for win rates by
    people. round_robin: compare every two policies by the first judge, and give all strengths.
    `until` excludes the latter two. facts: answers to the shipped prompts "facts", by policy and
    "start", for shares of right, wrong and declined ones, which no judge is asked for (at best
    greedy: temperature=0, n=1). Saved as `out`/evaluation.json; a killed call resumes. The other
    arguments: see `label`.

        rlaif.evaluate({"dpo": "dpo.jsonl"}, start="start.jsonl", judge="qwen2.5-coder-1.5b")
    """
    from rlaif.evaluation.anytime import stop_rule
    from rlaif.evaluation.comparison import require_counterparts
    from rlaif.evaluation.human_verdicts import require_known
    from rlaif.evaluation.judges.whole import whole_evaluation
    from rlaif.evaluation.judges.worth import read_worth
    from rlaif.evaluation.policies import PolicyRun
    from rlaif.feedback.labelers import labelers_of

    # Everything is read before a judge is started.
    problems = Problems()
    folder = problems.attempt(as_path, out, "out") or Path()
    asked = problems.attempt(judge_options, options, sample_principles, seed)
    if not isinstance(responses, Mapping):
        raise RecordError(
            f"invalid responses: {type(responses).__name__}; give each policy's samples by its "
            'name, as in {"dpo": "dpo.jsonl"}'
        )
    first = problems.attempt(samples_of, start, "start")
    runs = [
        (name, problems.attempt(samples_of, given, str(name))) for name, given in responses.items()
    ]
    if not responses:
        problems.found.append(RecordError("responses: no policy in it; give at least one"))
    if START in responses:
        problems.found.append(RecordError(f"responses: the name {START} is taken; rename it"))
    for name, samples in runs if first else ():
        problems.attempt(require_counterparts, samples or (), first or (), str(name))
    verdicts = problems.attempt(verdicts_of, human) or []
    evaluated = {str(name): samples for name, samples in runs if samples}
    if len(evaluated) == len(responses):
        problems.attempt(require_known, verdicts, evaluated)
    rule = problems.attempt(stop_rule, until, human=bool(verdicts), round_robin=round_robin)
    answers = problems.attempt(_fact_answers, facts or {}, list(responses)) or {}
    named = _each_judge(judge, server)
    problems.attempt(_require_distinct, named)
    judges = [problems.attempt(judge_of, *each, constitution, wait) for each in named]
    known = [problems.attempt(read_worth, Path(path)) or () for path in _several(worth)]
    trained_on = [problems.attempt(_label_file, path) or Path() for path in _several(labels)]
    problems.attempt(require_folder, folder)
    problems.refuse()
    _require_taking_part(worth, known, [checked(each) for each in judges], folder)
    policy_runs = [
        PolicyRun(str(name), checked(samples), facts=answers.get(str(name), ()))
        for name, samples in ((START, first), *runs)
    ]
    result = whole_evaluation(
        policy_runs,
        _in_turn([checked(each) for each in judges], folder, checked(asked)),
        # Without a file nobody is known to have labeled, and nobody not to have.
        labelers_of(trained_on) if trained_on else Labelers(),
        list(chain.from_iterable(known)),
        until=rule,
        human=verdicts,
        round_robin=round_robin,
    )
    result.save(folder / "evaluation.json")
    return result


def _fact_answers(
    facts: Mapping[str, SamplesLike], policies: Sequence[str]
) -> dict[str, list[Sample]]:
    """Each policy's answers to facts. Raises RecordError for a name that is not evaluated, a start
    that was not asked, and answers to other prompts."""
    if not isinstance(facts, Mapping):
        raise RecordError(
            f"invalid facts: {type(facts).__name__}; give each policy's answers by its name, as in "
            '{"start": "facts_start.jsonl", "dpo": "facts_dpo.jsonl"}'
        )
    known = (START, *map(str, policies))
    for name in map(str, facts):
        if name not in known:
            raise RecordError(f"facts: unknown policy {name!r}; {expected_one_of(name, known)}")
    if facts and START not in facts:
        raise RecordError(
            f"facts: the answers of {START} are missing, with which the others are compared; give "
            "them"
        )
    answers = {str(name): samples_of(given, f"facts of {name}") for name, given in facts.items()}
    for name, samples in answers.items():
        if other := next((s for s in samples if not asks_fact(s)), None):
            raise RecordError(
                f"facts of {name}: the prompt {other.prompt.id!r} is not one of the questions that "
                "ship; sample them by `rlaif sample facts n=1 temperature=0`"
            )
    return answers


def _each_judge(judge: Any, server: Any) -> list[tuple[Any, Any]]:
    """(judge, server) of every judge that was named, in their order, one of them "", for
    `judge_of`; of none, "" twice, which it refuses."""
    named = [
        ("", each) if isinstance(each, str) and ADDRESS.fullmatch(each) else (each, "")
        for each in _several(judge)
    ]
    named += [("", each) for each in _several(server)]
    return named or [("", "")]


def _require_distinct(judges: Sequence[tuple[Any, Any]]) -> None:
    texts = [str(each) for pair in judges for each in pair if each and isinstance(each, str | Path)]
    if twice := next((text for text in texts if texts.count(text) > 1), None):
        raise JudgeArgumentError(f"the judge {twice} is given twice; name each judge once")


def _several(given: Any) -> list[Any]:
    """What was given as a list: none for "", one for a name, a path or a client."""
    if isinstance(given, list | tuple):
        return list(given)
    return [given] if given or not isinstance(given, str) else []


def _require_taking_part(
    worth: Pathlike | Sequence[Pathlike],
    known: Sequence[Sequence[JudgeWorth]],
    judges: Sequence[JudgeConnection],
    folder: Path,
) -> None:
    """Raises WorthError for a file of figures that none of the judges has a use for."""
    from rlaif.evaluation.judges.worth import require_taking_part

    if known:
        evaluators = [judge.evaluator(folder / "judge.log") for judge in judges]
        for path, figures in zip(_several(worth), known, strict=True):
            require_taking_part(Path(path), figures, evaluators)


def _label_file(path: Pathlike) -> Path:
    found = labels_at(as_path(path, "labels"))
    if not found.exists():
        raise RecordError(f"{found}: no such file; give labels, or the folder of `rlaif label`")
    return found


def _in_turn(
    judges: Sequence[JudgeConnection], folder: Path, options: JudgeOptions
) -> Iterator[Compare]:
    """Each judge, connected only while it compares. The journal keeps every answer of every judge,
    so that a killed evaluation resumes and reads nothing twice."""
    from rlaif.feedback.labeler import comparer

    for judge in judges:
        with judge.connected_when_needed(folder / "judge.log") as client:
            yield comparer(
                client,
                folder / "answers.journal.jsonl",
                constitution=judge.constitution,
                options=options,
            )


def judge_options(
    options: JudgeOptions | None, sample_principles: int | None, seed: int | None
) -> JudgeOptions:
    """The judge's options, with the principles and the seed given beside them. Raises UserError."""
    if options is not None and not isinstance(options, JudgeOptions):
        raise UserError(f"invalid options: {options!r}; give judge_service.JudgeOptions(...)")
    if sample_principles is not None and (
        type(sample_principles) is not int or sample_principles < 1
    ):
        raise UserError(
            f"invalid sample_principles: {sample_principles!r}; give an integer, 1 or more, or None"
        )
    if seed is not None and type(seed) is not int:
        raise UserError(f"invalid seed: {seed!r}; give an integer")
    base = options or JudgeOptions()
    drawn = base.sample_principles if sample_principles is None else sample_principles
    return replace(base, sample_principles=drawn, seed=base.seed if seed is None else seed)
