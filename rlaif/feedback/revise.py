"""Critique → revision: what the supervised half of Constitutional AI learns from.

    x, y_0  ──critique by p_1──► c_1 ──revise by p_1──► y_1 ── … ──► y_k       k = rounds
    SFT imitates y_k as the answer to x           arXiv:2212.08073, section 3.1

    x      the prompt of a Sample      y_0    the policy's response, a good prompt is one that
    p_i    a principle that applies to x,     draws a bad answer
           drawn by seed anew each round

The judge writes both (`CritiqueCandidate`, `ReviseCandidate`). Every round is on disk
(`revisions.journal.jsonl`, one line each) before the next is asked for, and is found again by what
was asked, of whom, by which law: a killed run goes on where it stopped. A response that could not
be revised, or whose revision was cut at max_tokens, is kept with its reason in
`unrevised.jsonl` and is nothing to imitate.

Left out: the paper's worked examples per principle (the judge's wording has one for all), imitating
the earlier y_i besides the last.
"""

from __future__ import annotations

import json
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
from rlaif.data.records import Demonstration, Sample, atomic_open, write_jsonl
from rlaif.feedback.labeler import TRANSIENT, JudgeIdentity, identify
from rlaif.feedback.pairs import digest
from rlaif.generation.base import response_seed
from rlaif.progress import progress

JOURNAL = "revisions.journal.jsonl"
REVISIONS = "revisions.jsonl"
UNREVISED = "unrevised.jsonl"


class RevisionError(UserError):
    """Revising stopped, or gave nothing. The message says what is safe and how to continue."""


class RevisingClient(Protocol):
    """What revising needs of `JudgeClient`; called from several threads."""

    def server_info(self) -> ServerInfo: ...

    def critique(
        self,
        conversation: Conversation,
        response: str,
        constitution: str | Constitution,
        options: WritingOptions,
    ) -> Writing | Unjudged: ...

    def revise(
        self,
        conversation: Conversation,
        response: str,
        critique: str,
        constitution: str | Constitution,
        options: WritingOptions,
    ) -> Writing | Unjudged: ...


class Round(BaseModel):
    """One critique and its revision; `key` says what was asked. A critique that could not be
    written, or not to its end, has no revision."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    key: str
    id: str
    critique: Writing | Unjudged
    revision: Writing | Unjudged | None

    @property
    def text(self) -> str | None:
        """The revised response, None where there is none to go on with."""
        found = self.revision
        return found.text if isinstance(found, Writing) and found.complete and found.text else None

    @property
    def why_not(self) -> str:
        """The reason why there is no text."""
        for what, found in (("critique", self.critique), ("revision", self.revision)):
            if isinstance(found, Unjudged):
                return f"{what}: {found.reason.value}: {found.detail}"
            if found is not None and not found.complete:
                return f"{what}: cut at max_tokens"
            if found is not None and not found.text:
                return f"{what}: empty"
        return ""


@dataclass(frozen=True, slots=True)
class RevisionSummary:
    samples: int
    revised: int
    unrevised_by_reason: dict[str, int]
    asked: int  # rounds written in this run; the others were in the journal
    principles: dict[str, int]  # id → how often a revision was made by it, all rounds
    path: Path  # of the demonstrations


def revise(
    samples: Sequence[Sample],
    client: RevisingClient,
    out: Path,
    *,
    constitution: str | Constitution = "",
    rounds: int = 1,
    max_tokens: int = 256,
    temperature: float = 1.0,
    seed: int = 0,
    concurrency: int = 16,
) -> RevisionSummary:
    """Revise every sample `rounds` times into the folder `out`; run again, it asks for the rest.

    Writes revisions.jsonl (Demonstrations, for `rlaif train sft`) and unrevised.jsonl at the end.
    max_tokens: of a critique and of a revision. Raises RevisionError when nothing could be revised,
    and what the client raises when the judge goes away: every round so far is safe.
    """
    if not samples or rounds < 1 or concurrency < 1:
        raise RevisionError(
            f"{len(samples)} samples, rounds={rounds}, concurrency={concurrency}: each must be at "
            "least 1"
        )
    options = WritingOptions(
        max_tokens=max_tokens, temperature=temperature, seed=seed, interactive=False
    )
    reviser = _reviser(client, constitution, options)
    ends: dict[int, Round] = {}
    used: Counter[str] = Counter()
    with Journal(out / JOURNAL, Round) as journal:
        known = {entry.key: entry for _, entry in journal.scan() if not _transient(entry)}
        asked = 0
        with progress("revisions", len(samples) * rounds, "rounds") as report:
            found = reviser.all_rounds(samples, rounds, known, concurrency)
            for done, (place, entry, fresh) in enumerate(found, start=1):
                if fresh:
                    journal.append(entry)
                    asked += 1
                ends[place] = entry
                if isinstance(entry.revision, Writing):
                    used[entry.revision.principle_id] += 1
                report(done)
            report(len(samples) * rounds)
    return _write(samples, ends, out, asked, dict(used))


def _transient(entry: Round) -> bool:
    """Another try may give something else."""
    answers = (entry.critique, entry.revision)
    return any(isinstance(a, Unjudged) and a.reason in TRANSIENT for a in answers)


def _reviser(
    client: RevisingClient, constitution: str | Constitution, options: WritingOptions
) -> _Reviser:
    law = constitution
    if isinstance(law, str) and law.endswith((".yaml", ".yml")):
        law = Constitution.load(law)
    info = client.server_info()
    judge = identify(info, law)
    by_name = judge.constitution in info.constitutions  # else it is sent along
    return _Reviser(client, judge.constitution.name if by_name else law, judge, options)


@dataclass(frozen=True, slots=True)
class _Reviser:
    client: RevisingClient
    law: str | Constitution
    judge: JudgeIdentity
    options: WritingOptions

    def all_rounds(
        self, samples: Sequence[Sample], rounds: int, known: dict[str, Round], concurrency: int
    ) -> Iterator[tuple[int, Round, bool]]:
        """(place of the sample, a round of it, whether it was asked for now), as they come. A
        sample's rounds come in order and end where one has no text."""
        waiting = [(place, 1, sample.response) for place, sample in enumerate(samples)][::-1]
        running: dict[Future[Round], tuple[int, int]] = {}
        with ThreadPoolExecutor(concurrency) as pool:
            try:
                while waiting or running:
                    found: list[tuple[int, int, Round, bool]] = []
                    while waiting and len(running) < concurrency:
                        place, number, response = waiting.pop()
                        key = self._key(samples[place], number, response)
                        if key in known:
                            found.append((place, number, known[key], False))
                            break
                        future = pool.submit(self._round, samples[place], number, response, key)
                        running[future] = (place, number)
                    if not found:
                        finished, _ = wait(running, return_when=FIRST_COMPLETED)
                        found = [(*running.pop(f), f.result(), True) for f in finished]
                    for place, number, entry, fresh in found:
                        yield place, entry, fresh
                        if entry.text is not None and number < rounds:
                            waiting.append((place, number + 1, entry.text))
            finally:
                for future in running:
                    future.cancel()

    def _round(self, sample: Sample, number: int, response: str, key: str) -> Round:
        conversation = sample.prompt.messages
        options = replace(self.options, seed=self._seed(sample, number))
        id = f"{sample.prompt.id}#{sample.index}, round {number}"
        critique = self.client.critique(conversation, response, self.law, options)
        self._require_same_judge(critique)
        if isinstance(critique, Unjudged) or not critique.complete or not critique.text:
            return Round(key=key, id=id, critique=critique, revision=None)
        same = replace(options, principle_id=critique.principle_id)
        revision = self.client.revise(conversation, response, critique.text, self.law, same)
        return Round(key=key, id=id, critique=critique, revision=revision)

    def _require_same_judge(self, answer: Writing | Unjudged) -> None:
        if isinstance(answer, Unjudged):
            return
        origin, judge = answer.provenance, self.judge
        if (origin.model, origin.constitution_sha256) != (judge.model, judge.constitution.sha256):
            raise RevisionError(
                "the judge changed while revising (another model or constitution answers now); run "
                "again to go on with the new one, or start the old one again to continue"
            )

    def _seed(self, sample: Sample, number: int) -> int:
        return response_seed(self.options.seed, f"{sample.prompt.id}#{sample.index}", number)

    def _key(self, sample: Sample, number: int, response: str) -> str:
        said = [[turn.role, turn.content] for turn in sample.prompt.messages]
        judge = [self.judge.constitution.sha256, asdict(self.judge.model)]
        how = [self.options.max_tokens, self.options.temperature, self._seed(sample, number)]
        return digest([said, response, *judge, self.judge.template_version, *how])


def _write(
    samples: Sequence[Sample], ends: dict[int, Round], out: Path, asked: int, used: dict[str, int]
) -> RevisionSummary:
    revised: list[Demonstration] = []
    reasons: Counter[str] = Counter()
    with atomic_open(out / UNREVISED) as unrevised:
        for place, sample in enumerate(samples):
            entry, id = ends[place], f"{sample.prompt.id}#{sample.index}"
            if entry.text is not None:
                prompt = sample.prompt.messages
                revised.append(Demonstration(id=id, prompt=prompt, response=entry.text))
                continue
            reasons[": ".join(entry.why_not.split(": ")[:2])] += 1
            line = {"id": id, "reason": entry.why_not}
            unrevised.write(json.dumps(line, ensure_ascii=False) + "\n")
    if not revised:
        why = ", ".join(f"{reason} {n}" for reason, n in reasons.most_common())
        raise RevisionError(
            f"none of {len(samples)} responses could be revised ({why}); {out / UNREVISED} says "
            "why for each"
        )
    write_jsonl(out / REVISIONS, revised)
    return RevisionSummary(
        len(samples), len(revised), dict(reasons.most_common()), asked, used, out / REVISIONS
    )
