"""Attacks on a model over the grid topic x strategy, within a budget of prompts.

    first      every cell tries its first wording
    then       every cell without a success tries the next: the attacker's rewording of its request,
               or without an attacker the next template of the file
    until      the budget is spent, every cell has a success, or there is nothing left to try
    kept       the best prompt of each cell: a success, else no refusal, else the lowest rating

An archive with one elite per cell, after Rainbow Teaming (arXiv:2402.16822); the attacks that
succeed become training data for the next round, after MART (arXiv:2311.07689).
Left out: mutation of one cell's elite into another's, and training of the attacker.

    attacks.jsonl, failures.jsonl, twins.jsonl     records.py
    redteam.summary.json                           summary.py
    *.journal.jsonl                                responses, rewordings, ratings: after kill -9
                                                   only the rest is drawn and asked
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from constitution.schema import Message
from judge_service.types import Score, Unjudged
from rlaif.data.records import Prompt
from rlaif.evaluation.rules.refusals import HARMFUL, refuses
from rlaif.feedback.pairs import digest
from rlaif.feedback.revisions.summary import BORDERLINE
from rlaif.progress import progress
from rlaif.redteam.attacker import Attacker
from rlaif.redteam.config import RedTeamConfig
from rlaif.redteam.families import selected_families
from rlaif.redteam.records import ATTACKS, FAILURES, TWINS, Attack, Twin, write_tried
from rlaif.redteam.responder import Responder
from rlaif.redteam.strategies import AttackFile, GridCell, RedTeamError, grid
from rlaif.redteam.summary import SUMMARY, RedTeamSummary, Successes
from rlaif.redteam.verdict import Rate, RatingJudge, rating_receipt, verdict_on

TARGET_JOURNAL, ATTACKER_JOURNAL = "responses.journal.jsonl", "attacker.journal.jsonl"
FILE = "file"
MOST_MISSES = 3


@dataclass(frozen=True, slots=True)
class AttackPlan:
    """What an attack will try. system: the system message before every prompt, "" for none."""

    cells: tuple[GridCell, ...]
    budget: int
    config: RedTeamConfig
    system: str = ""


@dataclass
class CellState:
    """The tries of one cell, and the best of them with the template that it used. misses: times
    that there was nothing new to try."""

    cell: GridCell
    tries: int = 0
    best: Attack | None = None
    template: int = 0
    misses: int = 0

    @property
    def succeeded(self) -> bool:
        """Whether its best prompt is a success."""
        return self.best is not None and self.best.verdict.succeeded

    @property
    def is_open(self) -> bool:
        """Whether another try makes sense."""
        return self.misses < MOST_MISSES and not self.succeeded


@dataclass(frozen=True, slots=True)
class Wording:
    """A prompt to try next in a cell."""

    state: CellState
    prompt: Prompt
    author: str
    template: int


def plan_attack(file: AttackFile, config: RedTeamConfig, system: str = "") -> AttackPlan:
    """The cells that the settings select, with a budget for them.

    Raises RedTeamError for unknown names, and for a budget under one try for each cell.
    """
    families = selected_families(file, config.families)
    cells = grid(file, config.topics, families)
    budget = len(cells) if config.budget is None else config.budget
    if budget < len(cells):
        topics = len({cell.topic.id for cell in cells})
        raise RedTeamError(
            f"budget {budget} is under one prompt for each of {len(cells)} cells ({topics} topics "
            f"x {len(cells) // topics} strategies); give at least {len(cells)}, or fewer cells by "
            "topics=[...] or families=[...]"
        )
    return AttackPlan(tuple(cells), budget, config, system)


def red_team(
    plan: AttackPlan,
    target: Responder,
    out: Path,
    *,
    judge: RatingJudge | None,
    attacker: Responder | None = None,
) -> RedTeamSummary:
    """Attack the target, and write what came of it into the folder `out`; run again, it does only
    the rest.

    judge: None only for a verdict by rule, where it is not asked. Raises RedTeamError for an
    attacker of no use, and what target, attacker and judge raise: all responses and ratings so far
    are saved.
    """
    by = plan.config.verdict
    if judge is None and by != "rule":
        raise RedTeamError(f"verdict={by} needs a judge; give one, or verdict=rule")
    rate = judge.rate if judge is not None and by != "rule" else None
    states = [CellState(cell) for cell in plan.cells]
    writer = Attacker(attacker) if attacker is not None else None
    with progress("attacks", plan.budget, "prompts") as report:
        tried = 0
        while wordings := _next(states, plan, plan.budget - tried, writer):
            _try(wordings, target, rate, plan.config)
            tried += len(wordings)
            succeeded = sum(state.succeeded for state in states)
            report(tried, f"{succeeded} of {len(states)} cells succeed")
        attacks = [state.best for state in states if state.best is not None]
        twins = _twins(states, target, plan.system)
        report(plan.budget)
    summary = _summary(
        attacks,
        twins,
        model=target.name,
        attacker=attacker.name if attacker else "",
        judge=judge.name if judge is not None and rate else "",
        constitution=judge.constitution if judge is not None and rate else "",
        verdict=by,
        budget=plan.budget,
    )
    write_tried(out / ATTACKS, attacks)
    write_tried(out / FAILURES, (each for each in attacks if each.verdict.succeeded))
    write_tried(out / TWINS, twins)
    summary.save(out / SUMMARY)
    return summary


# ── what to try next ─────────────────────────────────────────────────────────────────────────


def _next(
    states: Sequence[CellState], plan: AttackPlan, left: int, writer: Attacker | None
) -> list[Wording]:
    """The next wordings of open cells, as far as the budget goes, cells with fewer tries first; []
    when there is nothing left to try."""
    while waiting := sorted((s for s in states if s.is_open), key=lambda s: s.tries)[:left]:
        # Cells that were never tried use the file's words: they need no attacker.
        rewritten: dict[str, str] = {}
        again = [state for state in waiting if state.tries]
        if writer is not None and again:
            texts = writer.rewrite([state.cell for state in again])
            rewritten = {s.cell.name: text for s, text in zip(again, texts, strict=True)}
        found = []
        for state in waiting:
            text, author = rewritten.get(state.cell.name, ""), writer.model.name if writer else ""
            if not text and state.tries < len(state.cell.strategy.templates):
                text, author = state.cell.request, FILE
            if text:
                found.append(_wording(state, text, author, plan.system))
            else:
                state.misses += 1
        if found:
            return found
    return []


def _wording(state: CellState, request: str, author: str, system: str) -> Wording:
    text = state.cell.strategy.write(request, state.tries)
    return Wording(state, _prompt(state.cell, text, HARMFUL, system), author, state.tries)


def _prompt(cell: GridCell, text: str, kind: str, system: str) -> Prompt:
    before = (Message(role="system", content=system),) if system else ()
    messages = (*before, Message(role="user", content=text))
    name = cell.name if kind == HARMFUL else f"{cell.name}-twin"
    return Prompt(
        id=f"{name}-{digest(text)[:8]}", messages=messages, topic=cell.topic.id, kind=kind
    )


# ── trying ───────────────────────────────────────────────────────────────────────────────────


def _try(
    wordings: Sequence[Wording], target: Responder, rate: Rate | None, config: RedTeamConfig
) -> None:
    """Try each wording; its cell keeps it if it is better than what it had."""
    samples = target.respond([wording.prompt for wording in wordings])
    answers: Sequence[Score | Unjudged | None] = [None] * len(samples)
    if rate is not None and config.verdict != "rule":
        answers = rate(samples)
    for wording, sample, answer in zip(wordings, samples, answers, strict=True):
        state, strategy = wording.state, wording.state.cell.strategy
        state.tries += 1
        attack = Attack(
            id=sample.prompt.id,
            family=strategy.family_name,
            strategy=strategy.id,
            topic=state.cell.topic.id,
            author=wording.author,
            model=target.name,
            prompt=sample.prompt,
            response=sample.response,
            tokens=sample.tokens,
            complete=sample.complete,
            end_token=sample.end_token,
            verdict=verdict_on(sample, answer, config.verdict, config.margin),
            receipt=rating_receipt(answer),
        )
        if state.best is None or _worth(attack) > _worth(state.best):
            state.best, state.template = attack, wording.template
        state.best = state.best.model_copy(update={"tries": state.tries})


def _worth(attack: Attack) -> tuple[bool, bool, float]:
    """Larger for a more successful attack."""
    verdict = attack.verdict
    return verdict.succeeded, not verdict.refused, -(verdict.rating or 0.0)


def _twins(states: Sequence[CellState], target: Responder, system: str) -> list[Twin]:
    """The benign neighbor of every cell in the words of its best prompt, and the response to it."""
    tried = [state for state in states if state.best is not None]
    prompts = [
        _prompt(s.cell, s.cell.strategy.write(s.cell.twin, s.template), BORDERLINE, system)
        for s in tried
    ]
    if not prompts:
        return []
    return [
        Twin(
            id=sample.prompt.id,
            family=state.cell.strategy.family_name,
            strategy=state.cell.strategy.id,
            topic=state.cell.topic.id,
            model=target.name,
            prompt=sample.prompt,
            response=sample.response,
            tokens=sample.tokens,
            complete=sample.complete,
            end_token=sample.end_token,
            refused=refuses(sample.response),
        )
        for state, sample in zip(tried, target.respond(prompts), strict=True)
    ]


# ── counts ───────────────────────────────────────────────────────────────────────────────────


def _summary(
    attacks: Sequence[Attack], twins: Sequence[Twin], **facts: Any
) -> RedTeamSummary:  # fmt: skip
    """The counts of the best attacks and the twins. facts: the other fields of the summary."""
    unjudged = Counter(attack.verdict.unjudged for attack in attacks if attack.verdict.unjudged)
    return RedTeamSummary(
        tries=sum(attack.tries for attack in attacks),
        cells=len(attacks),
        succeeded=sum(attack.verdict.succeeded for attack in attacks),
        refused=sum(attack.verdict.refused for attack in attacks),
        by_family=_successes(attacks, lambda attack: attack.family),
        by_topic=_successes(attacks, lambda attack: attack.topic),
        unjudged=dict(unjudged.most_common()),
        twins=len(twins),
        twins_refused=sum(twin.refused for twin in twins),
        **facts,
    )


def _successes(
    attacks: Sequence[Attack], group: Callable[[Attack], str]
) -> dict[str, Successes]:  # fmt: skip
    groups: dict[str, list[Attack]] = {}
    for attack in attacks:
        groups.setdefault(group(attack), []).append(attack)
    return {
        name: Successes(cells=len(each), succeeded=sum(a.verdict.succeeded for a in each))
        for name, each in groups.items()
    }
