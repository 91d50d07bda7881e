"""Revisions: a judge criticizes and rewrites responses. The judge is given as in judging.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from rlaif.api.inputs import Pathlike, SamplesLike, samples_of
from rlaif.api.judging import ConstitutionLike, judge_of, judge_options
from rlaif.api.problems import Problems, checked
from rlaif.data.files import as_path
from rlaif.feedback.revisions.gate import DEFAULT_GATE
from rlaif.training.preflight import require_folder, require_packages

if TYPE_CHECKING:
    from rlaif.feedback.labeler import LabelingClient
    from rlaif.feedback.revisions.lessons import RevisingClient
    from rlaif.feedback.revisions.summary import RevisionSummary


def revise(
    samples: SamplesLike,
    *,
    out: Pathlike = "revisions",
    judge: Pathlike = "",
    server: str | LabelingClient = "",
    constitution: ConstitutionLike = "",
    wait: float | None = None,
    rounds: int = 1,
    gate: float | None = DEFAULT_GATE,
    pilot: int | None = 32,
    max_tokens: int = 256,
    temperature: float = 1.0,
    sample_principles: int | None = None,
    seed: int | None = None,
) -> RevisionSummary:
    """Have a judge criticize and rewrite responses (arXiv:2212.08073, section 3); returns counts.

    `out`/lessons.jsonl has what `train_sft` imitates, `out`/pairs.parquet the revisions preferred
    to their originals, `out`/unrevised.jsonl what was refused and why. rounds: critiques and
    revisions of a response, each on the one before. gate: least P(the revision is better than its
    original), by the judge in both orders; None: compare nothing, and write no pairs. pilot: stop
    where none of the first ones gives a lesson; None: never. max_tokens, temperature: of critiques
    and revisions. Rounds are saved as they arrive, and a killed call resumes. The other arguments:
    see `label`.

        rlaif.revise("samples.jsonl", judge="qwen2.5-coder-1.5b", constitution="harmless").lessons
    """
    from rlaif.feedback.revisions.lessons import RevisionMethod
    from rlaif.feedback.revisions.lessons import revise as revise_samples

    problems = Problems()
    folder = problems.attempt(as_path, out, "out")
    options = problems.attempt(judge_options, None, sample_principles, seed)
    records = problems.attempt(samples_of, samples)
    connection = problems.attempt(judge_of, judge, server, constitution, wait)
    if folder is not None:
        problems.attempt(require_folder, folder)
    problems.attempt(require_packages, ("pyarrow",))
    problems.refuse()
    asked, by = checked(connection), checked(options)
    method = RevisionMethod(
        asked.constitution, rounds, gate, pilot, max_tokens, temperature, by.seed,
        by.sample_principles,
    )  # fmt: skip
    with asked.connected(checked(folder) / "judge.log") as client:
        return revise_samples(
            checked(records), cast("RevisingClient", client), checked(folder), method
        )
