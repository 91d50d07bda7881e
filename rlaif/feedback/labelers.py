"""Who labeled, by the receipts of labels; and what a judge will be called in answers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from constitution.schema import Constitution
from judge_service.engines.model_folder import model_name, weights_sha256
from judge_service.planted.file import PlantedJudge, planted_file
from rlaif.data.datasets import iter_preferences
from rlaif.data.records import RecordError
from rlaif.evaluation.comparison import EvaluatorModel
from rlaif.evaluation.judges.column import Labelers
from rlaif.models import catalog


def evaluator_of(model: str, constitution: Constitution) -> EvaluatorModel:
    """What an evaluation will record of a judge, without starting it.

    model: as a command takes it. weights_sha256 is "" where its weights are not on this machine.
    Raises PlantedError for a planted judge that cannot be read.
    """
    rules = f"{constitution.name} {constitution.version}"
    if planted_file(model) is not None:
        planted = PlantedJudge.load(model)
        return EvaluatorModel(planted.name, planted.digest, rules)
    folder = catalog.model_folder(model) if model in catalog.KNOWN else Path(model).expanduser()
    if not (folder / "config.json").is_file():
        return EvaluatorModel(model, "", rules)
    return EvaluatorModel(model_name(folder), weights_sha256(folder), rules)


def labelers_of(files: Iterable[Path]) -> Labelers:
    """The models that labeled the pairs of these files; incomplete where a pair has no receipt, as
    labels by people and by other programs, and where a file holds something else to imitate."""
    weights: set[str] = set()
    complete = True
    for file in files:
        try:
            for label in iter_preferences(file):
                model = json.loads(label.receipt).get("model") if label.receipt else None
                if model:
                    weights.add(model["weights_sha256"])
                else:
                    complete = False
        except RecordError:
            complete = False
    return Labelers(frozenset(weights), complete)
