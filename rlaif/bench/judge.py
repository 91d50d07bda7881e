"""A judge's answers to gold questions.

    pairs     every (right, wrong) pair of a question is compared, in both orders and uncalibrated:
              the gap is the log-odds of the label. Which response is called A is decided by a hash
              of the text
    scores    every response is scored alone (`judge score`), and the gap is the difference of two
              scores. RewardBench 2's subset Ties needs scores, and is always read in this way, as
              its script does with generative judges

A question with a pair or a response that could not be judged is unanswered: it is counted by its
reason and is in no figure. Answers are on disk before the next is asked for.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from constitution.schema import Constitution
from judge_service.client.sync import JudgeRequestError
from judge_service.judge.aggregation import in_each_order
from judge_service.types import (
    Comparison,
    JudgeOptions,
    Judgment,
    Unjudged,
    UnjudgedReason,
    Usage,
)
from rlaif.bench.obedience import ALL, Obedience, ObediencePair, obedience
from rlaif.bench.plan import comparisons, drawn_places, needs_scores
from rlaif.bench.result import Answered, BenchCost
from rlaif.bench.scores import ScoreEntry, ScoreRequest, scored_questions
from rlaif.feedback.client import ScoringClient
from rlaif.feedback.labeler import TRANSIENT, Answers, LabelingClient, identify, judge_pairs
from rlaif.gold_sets.answers import GoldAnswer, from_scores
from rlaif.gold_sets.questions import GoldQuestion

COMPARISONS = "comparisons.journal.jsonl"
SCORES = "scores.journal.jsonl"
SCORE_TIMEOUT_S = 600.0
_IN_FLIGHT = 16
_NEAREST = 1e-12  # P is kept this far from 0 and 1, so that log-odds are finite


class BenchClient(LabelingClient, ScoringClient, Protocol):
    """The part of `JudgeClient` that a bench uses."""


def uncalibrated(**values: Any) -> JudgeOptions:
    """Options of a bench: bulk work, and labels as they are read."""
    return JudgeOptions(calibrated=False, interactive=False, **values)


@dataclass(frozen=True, slots=True)
class JudgeBench:
    """How a judge is asked. inverted: the opposite principles, for obedience; None: not asked."""

    client: BenchClient
    folder: Path  # of the answers
    constitution: Constitution
    inverted: Constitution | None = None
    obedience_questions: int = 0  # drawn for the inverted principles
    options: JudgeOptions = field(default_factory=uncalibrated)
    by_scores: bool = False
    seed: int = 0

    def answer(self, questions: Sequence[GoldQuestion]) -> Answered:
        """Ask the judge. Raises as `judge_pairs`: what was answered is kept, and the same call
        continues with the rest."""
        scored = [q for q in questions if self.by_scores or needs_scores(q)]
        compared = [q for q in questions if not (self.by_scores or needs_scores(q))]
        parts = []
        if compared:
            parts.append(self._compare(compared))
        if scored:
            parts.append(self._score(scored))
        return parts[0] if len(parts) == 1 else _joined(questions, parts)

    # ── pairs ────────────────────────────────────────────────────────────────────────────────

    def _compare(self, questions: Sequence[GoldQuestion]) -> Answered:
        judged = self._judge(questions, self.constitution)
        answers, unanswered = [], Counter[str]()
        found = _by_question(judged)
        for number, question in enumerate(questions):
            pairs = found[number]
            failed = [a for _, a in pairs if isinstance(a, Unjudged)]
            if failed:
                unanswered[failed[0].reason.value] += 1
            else:
                answers.append(self._answer_of(question, pairs))
        turned, notes = self._obedience(questions, found)
        cost = _cost_of(judged)
        return Answered(answers, unanswered, cost, turned, notes)

    def _judge(self, questions: Sequence[GoldQuestion], by: Constitution) -> Answers:
        pairs = [c for n, question in enumerate(questions) for c in comparisons(question, f"{n}")]
        return judge_pairs(
            pairs, self.client, self.folder / COMPARISONS, constitution=by, options=self.options
        )

    def _answer_of(self, question: GoldQuestion, pairs: Sequence[_Judged]) -> GoldAnswer:
        gaps, orders = [], []
        for (right, _), (compared, answer) in zip(question.pairs, pairs, strict=True):
            assert isinstance(answer, Judgment)
            is_a = compared.response_a == question.responses[right]
            prob = min(max(answer.prob_a, _NEAREST), 1 - _NEAREST)
            gaps.append(math.log(prob / (1 - prob)) * (1 if is_a else -1))
            both = in_each_order(answer.votes, self.constitution.trait_weights)
            if both is not None:
                first, second = both  # P(A) with A shown first, and second
                orders.append((first, second) if is_a else (1 - second, 1 - first))
        complete = len(orders) == len(gaps)
        return GoldAnswer(question, tuple(gaps), tuple(orders) if complete else ())

    # ── obedience ────────────────────────────────────────────────────────────────────────────

    def _obedience(
        self, questions: Sequence[GoldQuestion], found: Sequence[Sequence[_Judged]]
    ) -> tuple[list[Obedience], list[str]]:
        if self.inverted is None or not self.obedience_questions:
            return [], []
        if not self.client.server_info().inline_constitutions:
            return [], [
                "obedience was not measured: the server accepts no constitution of a request; "
                "start it with --allow-inline, or give --judge"
            ]
        drawn = drawn_places(len(questions), self.obedience_questions, self.seed)
        asked = [questions[n] for n in drawn]
        inverse = _by_question(self._judge(asked, self.inverted))
        pairs = [
            pair
            for place, n in enumerate(drawn)
            for pair in self._obedience_pairs(questions[n], found[n], inverse[place])
        ]
        if not pairs:
            failed = Counter(
                answer.reason.value
                for question in inverse
                for _, answer in question
                if isinstance(answer, Unjudged)
            )
            why = ", ".join(f"{reason} {count}" for reason, count in failed.most_common())
            return [], [
                "obedience was not measured: no pair was judged by both principles"
                + (f" (by the inverted ones: {why})" if why else "")
            ]
        return obedience(pairs), []

    def _obedience_pairs(
        self, question: GoldQuestion, as_written: Sequence[_Judged], inverse: Sequence[_Judged]
    ) -> Iterator[ObediencePair]:
        several = len(self.constitution.principles) > 1
        for (right, _), (compared, answer), (_, opposite) in zip(
            question.pairs, as_written, inverse, strict=True
        ):
            if isinstance(answer, Unjudged) or isinstance(opposite, Unjudged):
                continue
            probs, others = _by_principle(answer, several), _by_principle(opposite, several)
            is_a = compared.response_a == question.responses[right]
            for name in (name for name in probs if name in others):  # in order: a set has none
                p, q = probs[name], others[name]
                if not is_a:
                    p, q = 1 - p, 1 - q
                yield ObediencePair(name, question.prompt_id, p, q, 1 / len(question.pairs))

    # ── scores ───────────────────────────────────────────────────────────────────────────────

    def _score(self, questions: Sequence[GoldQuestion]) -> Answered:
        judge = identify(self.client.server_info(), self.constitution)
        served = judge.constitution in self.client.server_info().constitutions
        by = self.constitution.name if served else self.constitution

        def score(request: ScoreRequest) -> ScoreEntry:
            try:
                answer = self.client.score(
                    request.messages, request.response, by, self.options, timeout=SCORE_TIMEOUT_S
                )
            except JudgeRequestError as error:  # such as a response that is too long
                return ScoreEntry(key=request.key, score=None, reason=_refusal(error), final=False)
            usage = answer.usage
            counts = {
                "reads": usage.reads,
                "stored_reads": usage.stored_reads,
                "prompt_tokens": usage.prompt_tokens,
            }
            if isinstance(answer, Unjudged):
                final = answer.reason not in TRANSIENT
                why = answer.reason.value
                return ScoreEntry(key=request.key, score=None, reason=why, final=final, **counts)
            return ScoreEntry(key=request.key, score=answer.score, **counts)

        def score_many(requests: Sequence[ScoreRequest]) -> Iterable[ScoreEntry]:
            with ThreadPoolExecutor(_IN_FLIGHT) as pool:
                waiting = [pool.submit(score, request) for request in requests]
                try:
                    for done in as_completed(waiting):
                        yield done.result()
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise

        started = time.monotonic()
        identity = [judge.constitution.sha256, asdict(judge.model), judge.template_version]
        scored = scored_questions(questions, identity, self.folder / SCORES, score_many)
        seconds = time.monotonic() - started
        answers, unanswered = answers_of_scores(scored)
        entries = [entry for _, each in scored for entry in each]
        total = len({entry.key for entry in entries})
        cost = BenchCost(
            sum(e.reads for e in entries),
            sum(e.stored_reads for e in entries),
            sum(e.prompt_tokens for e in entries),
            seconds if scored.scored_now == total else None,
        )
        return Answered(answers, unanswered, cost)


_Judged = tuple[Comparison, Judgment | Unjudged]


def _refusal(error: JudgeRequestError) -> str:
    """The reason of a refused score, in the words of a stream's answers."""
    too_long = "too long" in str(error)
    return (UnjudgedReason.TOO_LONG if too_long else UnjudgedReason.REFUSED).value


def answers_of_scores(
    scored: Iterable[tuple[GoldQuestion, Sequence[ScoreEntry]]],
) -> tuple[list[GoldAnswer], Counter[str]]:
    """Answers from scores, and counts of unanswered questions by reason."""
    answers, unanswered = [], Counter[str]()
    for question, entries in scored:
        scores = [entry.score for entry in entries if entry.score is not None]
        if len(scores) == len(entries):
            answers.append(from_scores(question, scores))
        else:
            unanswered[next(entry.reason for entry in entries if entry.score is None)] += 1
    return answers, unanswered


def _by_question(judged: Answers) -> list[list[_Judged]]:
    """The judged pairs of each question, in order; ids begin with the question's number."""
    found: list[list[_Judged]] = []
    for compared, answer in judged.by_pair():
        number = int(compared.id.partition("/")[0])
        if number == len(found):
            found.append([])
        found[number].append((compared, answer))
    return found


def _by_principle(judgment: Judgment, several: bool) -> dict[str, float]:
    """Principle → P(A); with several principles also that of the label by all."""
    probs = {vote.principle_id: vote.prob_a for vote in judgment.votes}
    return {ALL: judgment.prob_a, **probs} if several else probs


def _cost_of(judged: Answers) -> BenchCost:
    total = Usage()
    seen: set[int] = set()
    for place, (_, answer) in zip(judged.places, judged.by_pair(), strict=True):
        if place not in seen:
            total += answer.usage
            seen.add(place)
    seconds = judged.seconds if judged.judged_now == len(seen) else None
    return BenchCost(total.reads, total.stored_reads, total.prompt_tokens, seconds)


def _joined(questions: Sequence[GoldQuestion], parts: Sequence[Answered]) -> Answered:
    """Answers of both kinds, in the order of the questions."""
    place = {id(question): n for n, question in enumerate(questions)}
    answers = [answer for part in parts for answer in part.answers]
    seconds = [part.cost.seconds for part in parts]
    known = [each for each in seconds if each is not None]
    return Answered(
        sorted(answers, key=lambda answer: place[id(answer.question)]),
        sum((part.unanswered for part in parts), Counter[str]()),
        BenchCost(
            sum(part.cost.reads for part in parts),
            sum(part.cost.stored_reads for part in parts),
            sum(part.cost.prompt_tokens for part in parts),
            sum(known) if len(known) == len(seconds) else None,
        ),
        [each for part in parts for each in part.obedience],
        [note for part in parts for note in part.notes],
    )
