"""Rounds of critique and revision by the judge, resumable after a kill.

    x, y_0  ──critique by p_1──► c_1 ──revise by p_1──► y_1 ── … ──► y_k       k = rounds
                                                  arXiv:2212.08073, section 3.1

    x      the prompt of a Sample; good ones elicit bad responses
    y_0    the policy's response
    p_i    a principle that applies to x, drawn anew in each round with the seed

The judge writes both (`CritiqueCandidate`, `ReviseCandidate`). Every round is appended to
`revisions.journal.jsonl`, one line each, before the sample's next round, with a digest of the
request, the judge and the constitution as its key: a killed run continues where it stopped.

Left out: the paper's worked examples per principle (the judge's prompt has one for all principles),
and imitating earlier y_i as well as the last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from constitution.errors import UserError
from constitution.schema import Constitution
from judge_service.server_info import ServerInfo
from judge_service.types import Conversation, Unjudged, Writing, WritingOptions
from rlaif.data.journal import Journal
from rlaif.data.records import Sample
from rlaif.feedback.earlier_labels import JudgeIdentity
from rlaif.feedback.labeler import TRANSIENT, identify
from rlaif.feedback.pairs import digest
from rlaif.generation.base import response_seed
from rlaif.progress import progress


class RevisionError(UserError):
    """Revising stopped or produced nothing; the message says what was saved and how to continue."""


class WritingClient(Protocol):
    """The part of `JudgeClient` that writing uses; called from several threads."""

    def server_info(self) -> ServerInfo:
        """The server's model and constitutions. Raises JudgeUnavailable if it does not answer."""

    def critique(
        self,
        conversation: Conversation,
        response: str,
        constitution: str | Constitution,
        options: WritingOptions,
    ) -> Writing | Unjudged:
        """Write a critique of a response by one principle, named in `options` or drawn."""

    def revise(
        self,
        conversation: Conversation,
        response: str,
        critique: str,
        constitution: str | Constitution,
        options: WritingOptions,
    ) -> Writing | Unjudged:
        """Rewrite a response according to a critique, by the principle that `options` select."""


class Round(BaseModel):
    """One critique and its revision; `key` identifies the request. A critique that failed or was
    cut off has no revision."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    key: str
    id: str
    critique: Writing | Unjudged
    revision: Writing | Unjudged | None

    @property
    def text(self) -> str | None:
        """The revised response; None if there is none that is complete and not empty."""
        match self.revision:
            case Writing(text=text, complete=True) if text:
                return text
        return None

    @property
    def why_not(self) -> str:
        """The reason why there is no text; "" if there is one."""
        for what, writing in (("critique", self.critique), ("revision", self.revision)):
            if isinstance(writing, Unjudged):
                return f"{what}: {writing.reason.value}: {writing.detail}"
            if writing is not None and not writing.complete:
                return f"{what}: cut at max_tokens"
            if writing is not None and not writing.text:
                return f"{what}: empty"
        return ""


@dataclass(frozen=True, slots=True)
class WrittenRounds:
    """The last round of every sample, in order, and what this call did.

    asked: rounds written now; the others were in the journal. principles: id → revisions made by
    it, in all rounds.
    """

    last: list[Round]
    asked: int
    principles: Counter[str]
    judge: JudgeIdentity


def write_rounds(
    samples: Sequence[Sample],
    client: WritingClient,
    journal_file: Path,
    *,
    constitution: str | Constitution,
    rounds: int,
    options: WritingOptions,
    concurrency: int,
) -> WrittenRounds:
    """Have the judge revise every sample `rounds` times; those in the journal are not asked again.

    concurrency: rounds at a time. Raises RevisionError, and what the client raises when the judge
    becomes unavailable: all rounds so far are saved.
    """
    reviser = _reviser(client, constitution, replace(options, interactive=False))
    last: dict[int, Round] = {}
    principles: Counter[str] = Counter()
    with Journal(journal_file, Round) as journal:
        known = {entry.key: entry for _, entry in journal.scan() if not _transient(entry)}
        asked = 0
        with progress("revisions", len(samples) * rounds, "rounds") as report:
            results = reviser.all_rounds(samples, rounds, known, concurrency)
            for done, (index, entry, is_new) in enumerate(results, start=1):
                if is_new:
                    journal.append(entry)
                    asked += 1
                last[index] = entry  # a sample's rounds come in order
                if isinstance(entry.revision, Writing):
                    principles[entry.revision.principle_id] += 1
                report(done - journal.unsynced)
            journal.sync()
            report(len(samples) * rounds)  # samples without a text have fewer rounds
    in_order = [last[index] for index in range(len(samples))]
    return WrittenRounds(in_order, asked, principles, reviser.judge)


def _transient(entry: Round) -> bool:
    """Whether another try may succeed."""
    answers = (entry.critique, entry.revision)
    return any(isinstance(a, Unjudged) and a.reason in TRANSIENT for a in answers)


def _reviser(
    client: WritingClient, constitution: str | Constitution, options: WritingOptions
) -> _Reviser:
    if isinstance(constitution, str) and constitution.endswith((".yaml", ".yml")):
        constitution = Constitution.load(constitution)
    info = client.server_info()
    judge = identify(info, constitution)
    by_name = judge.constitution in info.constitutions  # else it is sent along
    return _Reviser(client, judge.constitution.name if by_name else constitution, judge, options)


@dataclass(frozen=True, slots=True)
class _Reviser:
    """Runs the rounds of all samples, several at a time, with one judge."""

    client: WritingClient
    constitution: str | Constitution
    judge: JudgeIdentity
    options: WritingOptions

    def all_rounds(
        self, samples: Sequence[Sample], rounds: int, known: dict[str, Round], concurrency: int
    ) -> Iterator[tuple[int, Round, bool]]:
        """(index of the sample, one of its rounds, whether it is new), in order of completion.

        A sample's rounds come in order, and end with one that has no text.
        """
        # A stack, reversed so that samples start in order; one under way is continued first.
        waiting = [(index, 1, sample.response) for index, sample in enumerate(samples)][::-1]
        running: dict[Future[Round], tuple[int, int]] = {}
        with ThreadPoolExecutor(concurrency) as pool:
            try:
                while waiting or running:
                    # Fill the free slots, but yield a known round at once: it needs no slot.
                    finished: list[tuple[int, int, Round, bool]] = []
                    while waiting and len(running) < concurrency:
                        index, number, response = waiting.pop()
                        key = self._key(samples[index], number, response)
                        if key in known:
                            finished.append((index, number, known[key], False))
                            break
                        future = pool.submit(self._round, samples[index], number, response, key)
                        running[future] = (index, number)
                    if not finished:
                        futures, _ = wait(running, return_when=FIRST_COMPLETED)
                        finished = [(*running.pop(f), f.result(), True) for f in futures]
                    # A revised sample goes back on the stack for its next round.
                    for index, number, entry, is_new in finished:
                        yield index, entry, is_new
                        if entry.text is not None and number < rounds:
                            waiting.append((index, number + 1, entry.text))
            finally:
                for future in running:
                    future.cancel()

    def _round(self, sample: Sample, number: int, response: str, key: str) -> Round:
        conversation = sample.prompt.messages
        options = replace(self.options, seed=self._seed(sample, number))
        id = f"{sample.prompt.id}#{sample.index}, round {number}"
        critique = self.client.critique(conversation, response, self.constitution, options)
        self._require_same_judge(critique)
        if isinstance(critique, Unjudged) or not critique.complete or not critique.text:
            return Round(key=key, id=id, critique=critique, revision=None)
        options = replace(options, principle_id=critique.principle_id)
        revision = self.client.revise(
            conversation, response, critique.text, self.constitution, options
        )
        return Round(key=key, id=id, critique=critique, revision=revision)

    def _require_same_judge(self, answer: Writing | Unjudged) -> None:
        if isinstance(answer, Unjudged):
            return
        origin, judge = answer.provenance, self.judge
        if (origin.model, origin.constitution_sha256) != (judge.model, judge.constitution.sha256):
            raise RevisionError(
                "the judge changed while revising: it now has another model or constitution; run "
                "again to use the new one, or restart the old one to continue"
            )

    def _seed(self, sample: Sample, number: int) -> int:
        return response_seed(self.options.seed, f"{sample.prompt.id}#{sample.index}", number)

    def _key(self, sample: Sample, number: int, response: str) -> str:
        turns = [[turn.role, turn.content] for turn in sample.prompt.messages]
        judge = [self.judge.constitution.sha256, asdict(self.judge.model)]
        options = [self.options.max_tokens, self.options.temperature, self._seed(sample, number)]
        return digest([turns, response, *judge, self.judge.template_version, *options])
