"""Failures as training prompts and as tests. The judge is given as in judging.py."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from constitution.errors import UserError
from rlaif.api.inputs import Pathlike, config_of
from rlaif.api.judging import ConstitutionLike, judge_of
from rlaif.api.problems import Problems, checked
from rlaif.api.redteam.attacking import rating_judge
from rlaif.data.files import as_path
from rlaif.generation.engines import choose_engine
from rlaif.models import catalog
from rlaif.redteam.config import CheckConfig
from rlaif.redteam.families import SHARE_OF_TESTS
from rlaif.training.preflight import require_folder, require_packages

if TYPE_CHECKING:
    from rlaif.feedback.labeler import LabelingClient
    from rlaif.redteam.regressions.adopt import Adopted
    from rlaif.redteam.regressions.check import CheckedRegression


def adopt_failures(
    failures: Pathlike,
    *,
    train: Pathlike,
    tests: Pathlike,
    twins: Pathlike | None = None,
    test_families: Sequence[str] = (),
    share: float = SHARE_OF_TESTS,
    skip_known: bool = False,
    write: bool = True,
) -> Adopted:
    """Add failures of `red_team` to training prompts and regression tests, split by attack family.

    No family is ever on both sides. failures, twins: files that `red_team` wrote; the twin of each
    failure goes with it, to be answered. train: prompts (JSONL); tests: regressions, or promptfoo's
    test cases (.yaml); both are made if missing and only ever added to. test_families: to be tests,
    where the files have not decided. share: of the other families, those that become tests, 0 to 1.
    skip_known: leave out failures that are tests already, which is refused otherwise. write: False
    for the counts alone. Raises UserError; then nothing is written.

        rlaif.adopt_failures("redteam/failures.jsonl", train="prompts.jsonl", tests="tests.jsonl")
    """
    from rlaif.redteam.regressions.adopt import adopt, require_share

    problems = Problems()
    given = {"failures": failures, "train": train, "tests": tests}
    if twins is not None:
        given["twins"] = twins
    paths = {name: problems.attempt(as_path, path, name) for name, path in given.items()}
    problems.attempt(require_share, share)
    if isinstance(test_families, str):
        problems.found.append(
            UserError(f"invalid test_families: {test_families!r}; give a list of names")
        )
    problems.refuse()
    return adopt(
        checked(paths["failures"]),
        checked(paths["train"]),
        checked(paths["tests"]),
        twins=paths.get("twins"),
        test_families=test_families,
        share=share,
        skip_known=skip_known,
        write=write,
    )


def check_regressions(
    model: Pathlike,
    tests: Pathlike,
    *,
    junit: Pathlike | None = None,
    out: Pathlike = "redteam-check",
    judge: Pathlike = "",
    server: str | LabelingClient = "",
    constitution: ConstitutionLike = "",
    wait: float | None = None,
    config: CheckConfig | Sequence[str] | None = None,
    **settings: Any,
) -> list[CheckedRegression]:
    """Test a model by regressions, in order; `passed` of each says whether it did, `why` why not.

    tests: a file that `adopt_failures` wrote. By rule; with a judge or a server an attack succeeds
    only if the judge says so, too. junit: a file for the outcome as JUnit XML. Responses are in
    `out`/checked.jsonl. Settings: temperature (0 by default), margin, ... (`rlaif redteam check
    --help`). A killed call resumes. The other arguments: see `label`. Raises UserError; no message
    has a text of a test.

        all(each.passed for each in rlaif.check_regressions("dpo-model", "tests.jsonl"))
    """
    from rlaif.data.records import atomic_open
    from rlaif.redteam import responder
    from rlaif.redteam.attack import TARGET_JOURNAL
    from rlaif.redteam.regressions.check import CHECKED, check, write_checked
    from rlaif.redteam.regressions.files import read_regressions
    from rlaif.redteam.regressions.junit import junit_xml

    problems = Problems()
    folder = problems.attempt(as_path, out, "out") or Path()
    report = problems.attempt(as_path, junit, "junit") if junit is not None else None
    own = problems.attempt(config_of, CheckConfig, config, settings)
    path = problems.attempt(as_path, tests, "tests")
    found = problems.attempt(read_regressions, path) if path is not None else None
    resolved = problems.attempt(catalog.resolve, model)
    asked = None
    if judge or server:
        asked = problems.attempt(judge_of, judge, server, constitution, wait)
    if own is not None:
        problems.attempt(choose_engine, own.engine)
    problems.attempt(require_packages, ("torch", "transformers"))
    problems.attempt(require_folder, folder)
    problems.refuse()
    how, journal = checked(own), folder / TARGET_JOURNAL
    target = responder.LocalModel(os.fspath(model), checked(resolved), how, journal)
    log = folder / "judge.log"
    with asked.connected(log) if asked is not None else nullcontext() as client:
        rating = rating_judge(client, folder, asked)
        outcomes = check(checked(found), target, rating, how.margin)
    write_checked(folder / CHECKED, outcomes)
    if report is not None:
        with atomic_open(report) as file:
            file.write(junit_xml(os.fspath(model), outcomes))
    return outcomes
