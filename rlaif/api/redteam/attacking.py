"""Attacks on a model. The judge is given as in judging.py."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from constitution.errors import UserError
from rlaif.api.inputs import Pathlike, config_of
from rlaif.api.judging import ConstitutionLike, JudgeConnection, judge_of
from rlaif.api.problems import Problems, checked
from rlaif.data.files import as_path
from rlaif.generation.engines import choose_engine
from rlaif.models import catalog
from rlaif.redteam.config import RedTeamConfig
from rlaif.training.preflight import require_folder, require_packages

if TYPE_CHECKING:
    from rlaif.feedback.filter import RatingClient
    from rlaif.feedback.labeler import LabelingClient
    from rlaif.redteam.attack import AttackPlan
    from rlaif.redteam.summary import RedTeamSummary
    from rlaif.redteam.verdict import RatingJudge


def red_team(
    model: Pathlike,
    *,
    attacker: Pathlike = "",
    out: Pathlike = "redteam",
    judge: Pathlike = "",
    server: str | LabelingClient = "",
    constitution: ConstitutionLike = "",
    wait: float | None = None,
    config: RedTeamConfig | Sequence[str] | None = None,
    **settings: Any,
) -> RedTeamSummary:
    """Attack a model: every topic by every strategy, the best prompt kept for each; returns counts.

    `out`/attacks.jsonl has the best prompts, `out`/failures.jsonl those that succeeded, which
    `revise`, `label` and `adopt_failures` take, `out`/twins.jsonl benign neighbors. attacker: a
    model that words the requests anew; "": the file's own words are tried. verdict="rule" asks no
    judge, and takes none. Settings: budget (prompts tried), strategies (a YAML file), topics,
    families, verdict, margin, ... (`rlaif redteam attack --help`). A killed call resumes. The other
    arguments: see `label`. Raises UserError; no message has a text of an attack.

        rlaif.red_team("smollm2-135m", verdict="rule", out="redteam").succeeded
    """
    from rlaif.redteam import responder
    from rlaif.redteam.attack import ATTACKER_JOURNAL, TARGET_JOURNAL
    from rlaif.redteam.attack import red_team as attack

    # Everything is checked, and nothing is loaded.
    problems = Problems()
    folder = problems.attempt(as_path, out, "out") or Path()
    found = problems.attempt(config_of, RedTeamConfig, config, settings)
    target = problems.attempt(catalog.resolve, model)
    writer = problems.attempt(catalog.resolve, attacker) if attacker else ""
    plan = asked = None
    if found is not None:
        plan = problems.attempt(_plan, found)
        problems.attempt(choose_engine, found.engine)
        if found.verdict != "rule":
            asked = problems.attempt(judge_of, judge, server, constitution, wait)
        elif judge or server:
            problems.found.append(
                UserError("verdict=rule asks no judge; remove the judge, or give verdict=both")
            )
    problems.attempt(require_packages, ("torch", "transformers"))
    problems.attempt(require_folder, folder)
    problems.refuse()
    # The target and the attacker are loaded in turn, each in a process of its own.
    own = checked(found)
    plain = own.model_copy(update={"chat_template_kwargs": {}})
    attacked = responder.LocalModel(
        os.fspath(model), checked(target), own, folder / TARGET_JOURNAL
    )  # fmt: skip
    words = None
    if writer:
        words = responder.LocalModel(
            os.fspath(attacker), writer, plain, folder / ATTACKER_JOURNAL
        )  # fmt: skip
    log = folder / "judge.log"
    with asked.connected(log) if asked is not None else nullcontext() as client:
        rating = rating_judge(client, folder, asked)
        return attack(checked(plan), attacked, folder, judge=rating, attacker=words)


def rating_judge(
    client: LabelingClient | None, folder: Path, asked: JudgeConnection | None
) -> RatingJudge | None:
    """What rates responses by a client, every rating kept in `folder`; None without a judge."""
    from rlaif.redteam.verdict import RatingJudge

    if client is None or asked is None:
        return None
    return RatingJudge.of(cast("RatingClient", client), folder, asked.constitution)


def _plan(config: RedTeamConfig) -> AttackPlan:
    from rlaif.redteam.attack import plan_attack
    from rlaif.redteam.strategies import load_strategies

    return plan_attack(load_strategies(config.strategies), config)
